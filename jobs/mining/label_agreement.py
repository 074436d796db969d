"""Whether labels are a model's classes, and which classes they are: its predictions on training images tell.

A checkpoint does not say which person a class is. The usual rule, the rank among the sorted training pids, is wrong for
a model that was trained with another numbering: its maps for the target `label` would explain another person. But a
model knows the persons that it was trained on. (No torch.)
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jobs.errors import UserError
from jobs.phrases import counted, first_few
from jobs.runs.request import LabelAgreement

logger = logging.getLogger(__name__)

_FEWEST_IMAGES, _FEWEST_PERSONS = 20, 5  # with fewer nothing is concluded
# A model that knows the persons gives two images of one person the same class, and each person a class of its own.
_SAME_CLASS, _OWN_CLASS = 0.4, 0.9
# Where a share p of predictions is right, about p * p of the pairs have one class. So under the right numbering the
# agreement is not less than the share of the pairs; under another one it is far less.
_OTHER_NUMBERING, _DOUBTFUL = 0.6, 0.9
_WEAK = 0.5
_CLEAR = 0.6  # of a person's images must have one class to learn it


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Of one training image: who it shows, the class with the largest logit, and its softmax probability."""

    pid: int
    predicted: int
    probability: float


def compare(predictions: Sequence[Prediction], labels: Mapping[int, int], num_classes: int) -> LabelAgreement:
    """Predictions on images of persons that have a label, compared with these labels; others are passed over."""
    known = [prediction for prediction in predictions if prediction.pid in labels]
    by_person = _by_person(known)
    holders = Counter(_most_frequent(counts) for counts in by_person.values())
    pairs = sum(_pairs(counts.total()) for counts in by_person.values())
    same = sum(_pairs(count) for counts in by_person.values() for count in counts.values())
    own = sum(holders[_most_frequent(counts)] == 1 for counts in by_person.values())
    right = sum(prediction.predicted == labels[prediction.pid] for prediction in known)
    return LabelAgreement(
        images=len(known),
        persons=len(by_person),
        classes=num_classes,
        agreement=right / max(1, len(known)),
        same_class=same / pairs if pairs else None,
        own_class=own / max(1, len(by_person)),
        confidence=median([prediction.probability for prediction in known] or [0.0]),
    )


def in_words(found: LabelAgreement) -> str:
    """The figures, with what chance would give."""
    pairs = "" if found.same_class is None else f", two images of a person one class in {found.same_class:.0%}"
    return (
        f"on {counted(found.images, 'training image')} of {counted(found.persons, 'person')} the prediction is the "
        f"label in {found.agreement:.1%} (chance: {1 / max(1, found.classes):.1%}){pairs}, {found.own_class:.0%} of "
        f"the persons have a class of their own, the median probability is {found.confidence:.2f}"
    )


def is_conclusive(found: LabelAgreement) -> bool:
    """Whether there are enough images to conclude anything."""
    enough = found.images >= _FEWEST_IMAGES and found.persons >= _FEWEST_PERSONS
    return enough and found.same_class is not None


def is_other_numbering(found: LabelAgreement) -> bool:
    """Whether the model tells these persons apart, but by other classes than their labels."""
    if not is_conclusive(found) or found.same_class is None:
        return False
    knows = found.same_class >= _SAME_CLASS and found.own_class >= _OWN_CLASS
    return knows and found.agreement <= _OTHER_NUMBERING * found.same_class


def check_labels(
    predictions: Sequence[Prediction], labels: Mapping[int, int], num_classes: int, label_map: Path | None = None
) -> LabelAgreement:
    """How the predictions compare with the labels, which is also logged.

    Raises UserError, with the figures and what to do, where the model was trained with another numbering. A model that
    is only weak is not refused.
    """
    found = compare(predictions, labels, num_classes)
    if not is_conclusive(found):
        logger.warning(
            "labels: whether they are the checkpoint's classes could not be checked: the shards have %s of %s with a "
            "label in the split train that could be compared",
            counted(found.images, "image"),
            counted(found.persons, "person"),
        )
    elif is_other_numbering(found):
        whose = "the usual labels are" if label_map is None else f"the classes of the label map {label_map} are"
        raise UserError(
            f"{whose} not this checkpoint's: {in_words(found)}. {_examples(predictions, labels)}. It was trained with "
            "another numbering of the persons: give that by --label-map FILE, or --label-map auto to learn it from "
            "such predictions"
        )
    elif found.own_class >= _OWN_CLASS and found.agreement < _DOUBTFUL * (found.same_class or 0):
        logger.warning("labels: some may be wrong: %s. %s", in_words(found), _examples(predictions, labels))
    elif found.agreement < _WEAK:
        logger.warning(
            "labels: %s; was the checkpoint trained on these images, and are its settings (prompt mode, neck, mean and "
            "std, image size) as in training?",
            in_words(found),
        )
    else:
        logger.info("labels: %s", in_words(found))
    return found


def learn_labels(predictions: Sequence[Prediction], persons: Set[int]) -> dict[int, int]:
    """pid -> class for all `persons`, the training pids: the class of most predictions on each person's images.

    A class that is clearly one person's is taken out of the predictions on all others. Raises UserError, with figures
    and examples, where the result is ambiguous: a person has no clear class, two persons have the same one, or too few
    predictions agree.
    """
    by_person = _by_person(predictions)
    labels: dict[int, int] = {}
    while clear := _clear_classes({pid: by_person[pid] for pid in persons - labels.keys()}, set(labels.values())):
        labels |= clear
    right = sum(labels.get(prediction.pid) == prediction.predicted for prediction in predictions)
    if len(labels) < len(persons) or right < _CLEAR * len(predictions):
        left = sorted(persons - labels.keys())
        shown = [f"pid {pid}: {_counts(by_person[pid])}" for pid in left]
        examples = f", such as {'; '.join(shown[:3])}" if shown else ""
        raise UserError(
            f"--label-map auto: the predictions do not tell each person's class: {len(left)} of "
            f"{counted(len(persons), 'person')} have no clear class of their own{examples}; {right} of "
            f"{counted(len(predictions), 'image')} have the class of their person; give the numbering by --label-map "
            "FILE"
        )
    return dict(sorted(labels.items()))


def _clear_classes(by_person: Mapping[int, Counter[int]], taken: Collection[int]) -> dict[int, int]:
    """pid -> class of those persons for whom one class is clear, and that no other one of these persons has."""
    found: dict[int, int] = {}
    for pid, counts in by_person.items():
        left = Counter({label: count for label, count in counts.items() if label not in taken})
        if _is_clear(left):
            found[pid] = _most_frequent(left)
    holders = Counter(found.values())
    return {pid: label for pid, label in found.items() if holders[label] == 1}


def _counts(counts: Counter[int]) -> str:
    """`class 7 in 2, class 9 in 1 of 3 images`"""
    if not counts:
        return "no image that can be read"
    most = sorted(counts, key=lambda label: (-counts[label], label))
    each = first_few((f"class {label} in {counts[label]}" for label in most), 2)
    return f"{each} of {counted(counts.total(), 'image')}"


def _examples(predictions: Sequence[Prediction], labels: Mapping[int, int]) -> str:
    """`For example pid 2 has label 0, and class 17 in 3 of 3 images`"""
    for pid, counts in sorted(_by_person(predictions).items()):
        label, count = _most_frequent(counts), max(counts.values())
        if pid in labels and label != labels[pid] and _is_clear(counts):
            return f"For example pid {pid} has label {labels[pid]}, and class {label} in {count} of {counts.total()}"
    return "No person is clearly of another class"


def _by_person(predictions: Iterable[Prediction]) -> dict[int, Counter[int]]:
    """pid -> how often each class was predicted."""
    found: dict[int, Counter[int]] = defaultdict(Counter)
    for prediction in predictions:
        found[prediction.pid][prediction.predicted] += 1
    return found


def _most_frequent(counts: Counter[int]) -> int:
    """The class; of several, the lowest one."""
    return min(counts, key=lambda label: (-counts[label], label))


def _is_clear(counts: Counter[int]) -> bool:
    return bool(counts) and max(counts.values()) >= _CLEAR * counts.total()


def _pairs(count: int) -> int:
    return count * (count - 1) // 2
