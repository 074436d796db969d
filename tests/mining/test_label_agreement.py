"""Predictions compared with labels, by hand; when labels are refused, and when they can be learned."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence

import pytest

from jobs.errors import UserError
from jobs.mining.label_agreement import (
    Prediction,
    check_labels,
    compare,
    in_words,
    is_conclusive,
    is_other_numbering,
    learn_labels,
)


def predictions(classes: Mapping[int, Sequence[int]]) -> list[Prediction]:
    """pid -> the class predicted on each of its images."""
    return [
        Prediction(pid=pid, predicted=label, probability=0.1 * (1 + number))
        for pid, labels in classes.items()
        for number, label in enumerate(labels)
    ]


def test_the_figures_are_those_counted_by_hand() -> None:
    found = compare(predictions({2: [0, 0, 1], 7: [1, 1, 1], 9: [2], 4: [3]}), {2: 0, 7: 2, 9: 2}, 5)
    assert (found.images, found.persons, found.classes) == (7, 3, 5)  # pid 4 has no label
    assert found.agreement == pytest.approx(3 / 7)  # two images of 2, and 9's
    assert found.same_class == pytest.approx(4 / 6)  # 2 has one of three pairs, 7 three of three
    assert found.own_class == 1.0
    assert found.confidence == pytest.approx(0.2)  # of 0.1 0.2 0.3 0.1 0.2 0.3 0.1
    assert "7 training images of 3 persons the prediction is the label in 42.9% (chance: 20.0%)" in in_words(found)
    shared = compare(predictions({2: [5, 5], 7: [5, 5], 9: [1, 1], 11: [0, 3]}), dict.fromkeys((2, 7, 9, 11), 0), 6)
    assert shared.own_class == 0.5 and shared.same_class == pytest.approx(3 / 4)  # of equally frequent ones the lowest
    assert compare([], {2: 0}, 5).same_class is None and compare(predictions({2: [0]}), {2: 0}, 5).same_class is None


LABELS = {pid: pid for pid in range(40)}


def knowing(classes: Mapping[int, int], right: float = 1.0, images: int = 3, seed: int = 0) -> list[Prediction]:
    """A model that knows each person's class; a share of its predictions is random."""
    rng = random.Random(seed)
    return predictions(
        {pid: [label if rng.random() < right else rng.randrange(40) for _ in range(images)]
         for pid, label in classes.items()}
    )  # fmt: skip


SHIFTED = {pid: (pid + 1) % 40 for pid in range(40)}
HALF = {pid: pid if pid < 20 else 20 + (pid - 19) % 20 for pid in range(40)}


@pytest.mark.parametrize(
    ("found", "other"),
    [
        (knowing(LABELS), False),
        (knowing(LABELS, 0.7), False),
        (knowing(SHIFTED), True),
        (knowing(SHIFTED, 0.8), True),
        (knowing(HALF), True),  # of half of the persons
        (knowing(SHIFTED, 0.0), False),  # at random
        (knowing(SHIFTED, 0.3), False),
        (knowing(dict.fromkeys(range(40), 3)), False),  # the same class for everybody
        (knowing({pid: pid // 2 + 1 for pid in range(40)}), False),  # persons are not told apart
        (knowing(SHIFTED, images=1), False),  # one image each: nothing to tell
        (knowing({pid: pid + 1 for pid in range(6)}), False),  # 18 images
        (knowing({pid: pid + 1 for pid in range(4)}, images=10), False),  # 4 persons
        (knowing({pid: pid + 1 for pid in range(7)}), True),
    ],
)
def test_another_numbering_is_told_from_a_weak_model(found: list[Prediction], other: bool) -> None:
    assert is_other_numbering(compare(found, LABELS, 40)) is other
    if other:
        with pytest.raises(UserError, match="another numbering"):
            check_labels(found, LABELS, 40)
    else:
        check_labels(found, LABELS, 40)


def test_the_refusal_has_the_figures_an_example_and_both_ways_out() -> None:
    with pytest.raises(UserError) as error:
        check_labels(knowing(SHIFTED), LABELS, 40)
    assert str(error.value) == (
        "the usual labels are not this checkpoint's: on 120 training images of 40 persons the prediction is the label "
        "in 0.0% (chance: 2.5%), two images of a person one class in 100%, 100% of the persons have a class of their "
        "own, the median probability is 0.20. For example pid 0 has label 0, and class 1 in 3 of 3. It was trained "
        "with another numbering of the persons: give that by --label-map FILE, or --label-map auto to learn it from "
        "such predictions"
    )


@pytest.mark.parametrize(
    ("found", "level", "words"),
    [
        (knowing(LABELS), "INFO", "the label in 100.0%"),
        (knowing(LABELS, 0.1), "WARNING", "was the checkpoint trained on these images"),
        (knowing({**LABELS, **{pid: (pid + 1) % 8 for pid in range(8)}}), "WARNING", "some may be wrong"),
        (knowing({1: 1}), "WARNING", "could not be checked: the shards have 3 images of 1 person"),
        ([], "WARNING", "could not be checked: the shards have 0 images of 0 persons"),
    ],
)
def test_what_was_found_is_said(
    found: list[Prediction], level: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        agreement = check_labels(found, LABELS, 40)
    (record,) = caplog.records
    assert record.levelname == level and words in record.getMessage()
    assert is_conclusive(agreement) is ("could not be checked" not in words)


def test_a_permutation_is_learned_from_noisy_predictions() -> None:
    permutation = list(range(40))
    random.Random(3).shuffle(permutation)
    classes = {3 * pid + 1: label for pid, label in enumerate(permutation)}
    assert learn_labels(knowing(classes, 0.9, images=5), classes.keys()) == classes


def test_a_tie_is_resolved_by_the_classes_that_others_clearly_have() -> None:
    found = predictions({1: [0, 2], 2: [2, 2, 2], 3: [1, 1, 1], 4: [1, 2, 3, 3]})
    assert learn_labels(found, {1, 2, 3, 4}) == {1: 0, 2: 2, 3: 1, 4: 3}


@pytest.mark.parametrize(
    ("classes", "pids", "message"),
    [
        ({1: [0, 0], 2: [1, 1], 3: [2], 4: [2]}, [1, 2, 3, 4], "2 of 4 persons .* such as pid 3: class 2 in 1 of 1"),
        ({1: [0, 0], 2: [1, 1]}, [1, 2, 3], "1 of 3 persons .* pid 3: no image that can be read; 4 of 4 images"),
        ({1: [0, 1], 2: [1, 0], 3: [2, 2, 2]}, [1, 2, 3],
         "2 of 3 persons have no clear class of their own, such as pid 1: class 0 in 1, class 1 in 1 of 2 images; pid"),
        ({1: [0, 0], 2: [0, 0], 3: [2]}, [1, 2, 3], "such as pid 1: class 0 in 2 of 2 images; pid 2: class 0 in 2 of"),
        ({1: [0, 1, 1, 2], 2: [1, 1, 0, 0, 2, 2], 3: [2, 2, 2]}, [1, 2, 3], "give the numbering by --label-map FILE"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_not_learned(classes: dict[int, list[int]], pids: list[int], message: str) -> None:
    with pytest.raises(UserError, match=f"--label-map auto: .*{message}"):
        learn_labels(predictions(classes), set(pids))
