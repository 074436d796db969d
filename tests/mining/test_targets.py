"""Who is a training class, who is whose reference, and which target each batch gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cam.targets import FEATURE
from jobs.errors import ShardError, UserError
from jobs.mining.labels import labels_for, read_label_map, training_pids
from jobs.mining.references import References
from jobs.mining.targets import FixedTarget, LabelTarget, SimilarityTarget
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import Sample
from jobs.shards.urls import expand_shards
from tests.support.made_runs import as_first_version, made_manifest, made_shard
from tests.support.shard_files import image_bytes, sample_members, write_tar


def sample(key: str, pid: int | None, split: str = "gallery", index: int = 0) -> Sample:
    return Sample(key=key, tar_index=index, pid=pid, split=split)


def tar_of(path: Path, *entries: tuple[str, int | None]) -> None:
    write_tar(path, [m for key, pid in entries for m in sample_members(key, image_bytes(), pid=pid)])


def test_classes_are_the_persons_of_the_training_split(tmp_path: Path) -> None:
    """Junk and distractors are no class; pid 0 is a distractor only where the names are Market's or Duke's."""
    tar_of(
        tmp_path / "train-0.tar",
        ("0007_c1s1_000001_00", 7),
        ("0002_c1s1_000002_00", 2),
        ("0000_c1s1_000003_00", 0),
        ("-1_c1s1_000004_00", -1),
        ("no-pid", None),
    )
    tar_of(tmp_path / "train-1.tar", ("0002_c2s1_000005_00", 2), ("0011_c2s1_000006_00", 11))
    tar_of(tmp_path / "query-0.tar", ("0001_c1s1_000007_00", 1))
    shards = expand_shards([str(tmp_path)])
    assert training_pids(shards) == {2, 7, 11}
    assert labels_for(shards, None, 3) == {2: 0, 7: 1, 11: 2}
    with pytest.raises(UserError, match="have 3 pids, but the checkpoint has 4 classes"):
        labels_for(shards, None, 4)
    tar_of(tmp_path / "train-2.tar", ("a-first-person", 0))
    assert labels_for(expand_shards([str(tmp_path)]), None, 4) == {0: 0, 2: 1, 7: 2, 11: 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "is not an object of pids to classes"),
        ("{", "is not JSON"),
        ('{"two": 0}', "has the entry 'two': 0; expected a pid and a class number"),
        ('{"2": -1}', "has the entry '2': -1"),
        ('{"2": true}', "has the entry '2': True"),
        ('{"2": 1.0}', "has the entry '2': 1.0"),
        ('{"2": [0]}', r"has the entry '2': \[0\]"),
        ('{"--5": 0}', "has the entry '--5': 0; expected a pid and a class number"),
        ('{"-": 0}', "has the entry '-': 0"),
        ('{"\u00b2": 0}', "has the entry '\u00b2': 0"),
        ('{"\u0663": 0}', "has the entry '\u0663': 0"),
        ('{"1_0": 0}', "has the entry '1_0': 0"),
        ('{" 2": 0}', "has the entry ' 2': 0"),
        ('{"2\\n": 0}', r"has the entry '2\\n': 0"),
        ('{"' + 5000 * "9" + '": 0}', r"has the entry '9+\.\.\.9+': 0"),
        ('{"2": ' + 5000 * "9" + "}", "is not JSON"),
        ('{"2": 0, "2": 1}', "gives pid 2 two classes, 0 and 1"),
        ('{"2": 0, "0002": 1}', "gives pid 2 two classes, 0 and 1"),
        ("{}", "names no pid"),
        ("", "is not JSON"),
        (100_000 * "[", "is not JSON"),
    ],
)
def test_a_label_map_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "map.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_label_map(tmp_path / "map.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(tmp_path)) + 200
    with pytest.raises(UserError, match="cannot read the label map"):
        read_label_map(tmp_path / "none.json")


def test_a_label_map_has_pids_as_they_are_written_in_names(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_bytes(b'\xef\xbb\xbf{"0002": 1, "-3": 0, "10045": 2, "7": 1}')
    assert read_label_map(tmp_path / "map.json") == {2: 1, -3: 0, 10045: 2, 7: 1}


def test_training_images_are_found_between_others(tmp_path: Path) -> None:
    """A shard may hold several splits. Where its name and its first image say another one, it is read on at need."""
    splits = {"a": "query", "b": "train", "c": "gallery", "d": "train"}
    members = [
        member
        for number, (key, split) in enumerate(splits.items())
        for member in sample_members(key, image_bytes(), pid=number + 1, split=split)
    ]
    write_tar(tmp_path / "all-0.tar", members)
    assert training_pids(expand_shards([str(tmp_path / "all-0.tar")])) == {2, 4}
    write_tar(tmp_path / "query-0.tar", members[2:])  # begins with training, whatever its name
    assert training_pids(expand_shards([str(tmp_path / "query-0.tar")])) == {2, 4}
    write_tar(tmp_path / "gallery-0.tar", members)
    gallery = expand_shards([str(tmp_path / "gallery-0.tar")])
    assert training_pids(gallery) == training_pids(gallery, enough=1) == labels_for(gallery, None, 2).keys() == {2, 4}
    both = expand_shards([str(tmp_path / "*-0.tar")])
    write_tar(tmp_path / "gallery-0.tar", members, end=False)
    assert training_pids(both, enough=2) == {2, 4}  # the broken end was not reached
    with pytest.raises(ShardError, match="not a whole tar"):
        training_pids(both, enough=3)


class Out:
    """What a target reads of a model: logits (3, 4) and features (3, 2), all different."""

    logits = torch.arange(12.0).view(3, 4)
    scores = logits
    features = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])


def test_a_label_is_the_logit_of_the_own_class_and_others_have_none() -> None:
    found = LabelTarget({5: 2, 9: 0}).of(SampleColumns.of([sample("a", 9), sample("b", 4), sample("c", 5)]))
    assert found.known is not None and found.known.tolist() == [True, False, True]
    assert found.target.score(Out)[[0, 2]].tolist() == [0.0, 10.0]
    assert (found.status, found.error) == ("no_label", "its pid is not a class of the checkpoint")
    unknown = LabelTarget({5: 2}).of(SampleColumns.of([sample("a", None)]))
    assert unknown.known is not None and unknown.known.tolist() == [False]


def test_training_pids_pass_over_samples_of_other_splits_and_roles(tmp_path: Path) -> None:
    members = []
    for key, note in (
        ("a", {"split": "query", "pid": 1}),  # the first of its shard
        ("b", {"split": "train", "pid": 4, "identity": "train/4"}),
        ("c", {"split": "train", "pid": 5, "role": "distractor"}),
        ("0000_c1s1_000003_00", {"split": "train", "pid": 0, "role": "person", "identity": "train/0"}),
        ("d", {"split": "val", "pid": 6}),
        ("e", {"split": "train", "pid": 3}),
    ):
        members += sample_members(key, image_bytes(), **note)
    write_tar(tmp_path / "mixed.tar", members)
    assert training_pids(expand_shards([str(tmp_path)])) == {0, 3, 4}
    tar_of(tmp_path / "train-1.tar", ("f", 4))  # "0004": another person than "train/4"
    with pytest.raises(UserError, match="the pid 4 stands for two persons"):
        training_pids(expand_shards([str(tmp_path)]))


def test_a_pid_of_another_split_is_a_class_only_where_the_identity_is_the_pid() -> None:
    """MSMT17's person 2 of testing is not its person 2 of training."""
    samples = [
        Sample(key="a", tar_index=0, pid=2, split="train", role="person", identity="train/2"),
        Sample(key="b", tar_index=1, pid=2, split="val", role="person", identity="train/2"),
        Sample(key="c", tar_index=2, pid=2, split="query", role="person", identity="test/2"),
        sample("0002_c1s1_000001_00", 2, "query"),
        Sample(key="e", tar_index=4, pid=2, split="train", role="distractor"),
    ]
    found = LabelTarget({2: 1}).of(SampleColumns.of(samples))
    assert found.known is not None and found.known.tolist() == [True, True, False, True, False]


def test_a_fixed_target_is_known_for_all() -> None:
    found = FixedTarget(FEATURE).of(SampleColumns.of([sample("a", None)]))
    assert (found.target, found.known) == (FEATURE, None)


KEYS = ("0005_c1s1_000001_00", "0005_c2s1_000002_00", "0000_c1s1_000003_00", "plain-zero", "-1_c1s1_000004_00")
PIDS = (5, 5, 0, 0, -1)
FEATURES = np.array([[3, 4], [0, 2], [1, 1], [5, 0], [1, 2]], np.float32)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two images of person 5 in training, and in the gallery other images with the same pids."""
    root = tmp_path_factory.mktemp("references") / "RUN"
    manifest = made_manifest(root, ["gallery-0", "train-0"])
    training = [sample(key, pid, "train", n) for n, (key, pid) in enumerate(zip(KEYS, PIDS, strict=True))]
    made_shard(root, manifest, "train-0", training, features=FEATURES)
    gallery = [sample(KEYS[0], 5, index=0), sample("0005_c4s1_000009_00", 5, index=1), sample("no-pid", None, index=2)]
    made_shard(root, manifest, "gallery-0", gallery, features=np.array([[1, 0], [0, 7], [1, 1]], np.float32))
    return root


def test_references_are_the_unit_means_of_the_persons_other_images(references: Path) -> None:
    found = References(references)
    assert found.dimension == 2
    samples = [
        sample(KEYS[0], 5, "train"),  # one of two: the other one is left
        sample("0005_c3s1_000008_00", 5, "train"),  # new: the mean of both
        sample("0005_c3s1_000008_00", 5, "query"),  # the gallery's person 5 is another than the training's
        sample(KEYS[2], 0, "train"),  # Market's pid 0 is a distractor
        sample("another-zero", 0, "train"),  # elsewhere it is a person
        sample(KEYS[3], 0, "train"),  # the only image of its person
        sample(KEYS[4], -1, "train"),
        sample("no-pid", None),
        sample("0006_c1s1_000001_00", 6, "train"),
    ]
    features, known = found.of(SampleColumns.of(samples), 2)
    assert known.tolist() == [True, True, True, False, True, False, False, False, False]
    wanted = np.zeros((9, 2))
    wanted[0] = [0, 1]
    wanted[1] = [0.3, 0.9]  # (0.6, 0.8) and (0, 1)
    wanted[2] = [0.5, 0.5]  # (1, 0) and (0, 1)
    wanted[4] = [1, 0]
    np.testing.assert_allclose(features, wanted, atol=1e-7)
    assert features.dtype == np.float32


def test_stated_identities_decide_whose_reference_it_is(tmp_path: Path) -> None:
    """The pid is 2 everywhere; the same identity in two splits is the same person."""
    manifest = made_manifest(tmp_path, ["a-0"])
    told = [("train", "train/2"), ("query", "test/2"), ("train", "anna"), ("gallery", "anna")]
    there = [
        Sample(key=f"k{n}", tar_index=n, pid=2, split=split, identity=identity)
        for n, (split, identity) in enumerate(told)
    ]
    there.append(Sample(key="k4", tar_index=4, pid=2, split="query", role="distractor"))
    features = np.array([[1, 0], [0, 1], [3, 4], [4, 3], [1, 1]], np.float32)
    made_shard(tmp_path, manifest, "a-0", there, features=features)
    asked = [
        Sample(key="new", tar_index=9, pid=2, split="query", identity=who) for who in ("train/2", "test/2", "anna")
    ]
    asked += [there[2], Sample(key="new", tar_index=9, pid=2, split="query"), there[4]]
    found, known = References(tmp_path).of(SampleColumns.of(asked), 2)
    np.testing.assert_allclose(found, [[1, 0], [0, 1], [0.7, 0.7], [0.8, 0.6], [0, 0], [0, 0]], atol=1e-7)
    assert known.tolist() == [True, True, True, True, False, False]


def test_references_of_an_earlier_run_are_found_by_pid(references: Path, tmp_path: Path) -> None:
    """Its metadata has no identities, and shards that were packed since state them."""
    old = References(as_first_version(references, tmp_path / "OLD"))
    asked = [
        Sample(key="new", tar_index=0, pid=5, split="train", identity="train/5"),
        Sample(key="new", tar_index=0, pid=5, split="query", identity="test/5"),
        sample("new", 5, "train"),
    ]
    found, known = old.of(SampleColumns.of(asked), 2)
    np.testing.assert_allclose(found, [[0.3, 0.9], [0.5, 0.5], [0.3, 0.9]], atol=1e-7)
    assert known.all()


def test_a_batch_without_references_is_all_unknown(references: Path) -> None:
    features, known = References(references).of(SampleColumns.of([sample("no-pid", None)]), 2)
    assert features.tolist() == [[0, 0]] and known.tolist() == [False]
    features, known = References(references).of(SampleColumns.of([]), 2)
    assert features.shape == (0, 2) and known.shape == (0,)


def test_references_of_one_split_and_of_none(references: Path) -> None:
    features, known = References(references, "gallery").of(
        SampleColumns.of([sample("new", 5), sample("new", 5, "train")]), 2
    )
    assert known.tolist() == [True, False]
    np.testing.assert_allclose(features[0], [0.5, 0.5], atol=1e-7)
    with pytest.raises(UserError, match="has no image of a known person in split 'val'"):
        References(references, "val")


def test_a_run_that_is_not_finished_is_no_reference(references: Path, tmp_path: Path) -> None:
    made_manifest(tmp_path / "RUN", ["a", "b"])
    with pytest.raises(UserError, match="is not finished: 2 shards are missing, such as a"):
        References(tmp_path / "RUN")


def test_a_similarity_is_the_cosine_to_the_reference(references: Path) -> None:
    source = SimilarityTarget(References(references), 2)
    found = source.of(
        SampleColumns.of([sample("new", 5, "train"), sample(KEYS[0], 5, "train"), sample("new", 6, "train")])
    )
    assert found.known is not None and found.known.tolist() == [True, True, False]
    cosines = found.target.score(Out)[:2].tolist()
    assert cosines == pytest.approx([(0.6 * 0.3 + 0.8 * 0.9) / np.hypot(0.3, 0.9), 0.0], abs=1e-6)
    assert found.status == "no_reference"
