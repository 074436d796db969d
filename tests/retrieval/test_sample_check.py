"""The quick check of a checkpoint: which images it takes, and its figures against those computed the plain way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.errors import UserError
from jobs.retrieval.sample_check import OTHERS, TRAINING, SampleCheck, SampleCheckConfig, check_sample
from jobs.shards.urls import expand_shards
from promptsg_core import load_model
from promptsg_core.preprocess import decode_image, resize_image
from tests.support.knowing_model import person_image, person_shard
from tests.support.shard_files import image_bytes, market_key, sample_members, write_tar
from tests.support.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("check") / "m.pth"
    tiny_checkpoint(path, image_size=(64, 32))
    return path


def checked(checkpoint: Path, *shards: Path, images: int = 500) -> SampleCheck:
    listed = tuple(expand_shards([str(shard) for shard in shards]))
    config = SampleCheckConfig(checkpoint=checkpoint, shards=listed, images=images, device="cpu", precision="fp32")
    return check_sample(config)


def test_the_figures_are_those_of_the_plain_protocol(checkpoint: Path, tmp_path: Path) -> None:
    """Every image is a query; of the same person, only other cameras count. Rank-1 and AP with plain loops."""
    entries = [(pid, number, (pid + number) % 2) for pid in range(1, 9) for number in range(4)]
    members = []
    for pid, number, camid in entries:
        image = person_image(pid if number < 2 else 50 + number, 10 * pid + number)  # others look like somebody else
        members += sample_members(market_key(pid, camid, number), image, pid=pid, camid=camid)
    write_tar(tmp_path / "gallery-0.tar", members)
    model = load_model(checkpoint, device="cpu", precision="fp32")
    pixels = [resize_image(decode_image(data), (64, 32)) for name, data in members if name.endswith(".jpg")]
    features = np.stack([model(image[None])[0].numpy() for image in pixels]).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    hits, precisions, shares = [], [], []
    for query, (pid, _, camid) in enumerate(entries):
        others = [n for n, (who, _, where) in enumerate(entries) if (who, where) != (pid, camid)]
        ranked = sorted(others, key=lambda n: ((features[query] - features[n]) ** 2).sum())
        found = [entries[n][0] == pid for n in ranked]
        ranks = np.flatnonzero(found)
        hits.append(found[0])
        precisions.append(np.mean([(i + 1) / (rank + 1) for i, rank in enumerate(ranks)]))
        shares.append(len(ranks) / len(others))
    (found_here,) = checked(checkpoint, tmp_path).retrieval
    assert (found_here.name, found_here.images, found_here.persons, found_here.queries) == (OTHERS, 32, 8, 32)
    assert found_here.rank1 == pytest.approx(np.mean(hits)) and 0 < np.mean(hits) < 1
    assert found_here.mAP == pytest.approx(np.mean(precisions), abs=1e-6) and found_here.across_cameras
    assert found_here.chance == pytest.approx(np.mean(shares))


def test_the_sample_is_bounded_and_both_splits_are_in_it(checkpoint: Path, tmp_path: Path) -> None:
    person_shard(tmp_path / "train-0.tar", range(1, 21), 6)
    person_shard(tmp_path / "gallery-0.tar", range(100, 115), 6)
    person_shard(tmp_path / "gallery-1.tar", range(115, 130), 6)
    found = checked(checkpoint, tmp_path, images=64)
    assert [(one.name, one.images, one.persons) for one in found.retrieval] == [(TRAINING, 32, 8), (OTHERS, 32, 8)]
    assert all(one.queries == one.images for one in found.retrieval)  # each has a match
    assert found.labels is None and found.no_labels == "20 training persons in these shards, but 7 classes"
    assert checked(checkpoint, tmp_path, images=64) == found


def test_persons_of_several_cameras_are_taken_first(checkpoint: Path, tmp_path: Path) -> None:
    person_shard(tmp_path / "gallery-0.tar", range(1, 11), 4, cameras=1)
    person_shard(tmp_path / "gallery-1.tar", range(20, 24), 4, cameras=3)
    (one,) = checked(checkpoint, tmp_path, images=16).retrieval
    assert one.across_cameras and one.persons == 4 and one.queries == 16


def test_images_of_one_camera_are_matched_with_each_other(checkpoint: Path, tmp_path: Path) -> None:
    person_shard(tmp_path / "gallery-0.tar", range(1, 6), 3, cameras=1)
    (one,) = checked(checkpoint, tmp_path).retrieval
    assert not one.across_cameras and one.queries == 15 and one.chance == pytest.approx(2 / 14)


def test_junk_distractors_and_broken_images_are_left_out(checkpoint: Path, tmp_path: Path) -> None:
    members = []
    for number, pid in enumerate([-1, -1, 0, 0, 3, 3, 3, None]):
        data = b"no image" if number == 6 else image_bytes(number)
        members += sample_members(
            f"{pid or 0:04d}_c{number % 3 + 1}s1_{number:06d}_00", data, pid=pid, camid=number % 3
        )
    write_tar(tmp_path / "gallery-0.tar", members)
    found = checked(checkpoint, tmp_path)
    assert [(one.images, one.persons) for one in found.retrieval] == [(2, 1)] and found.undecoded == 1
    write_tar(tmp_path / "gallery-0.tar", members[:4])
    with pytest.raises(UserError, match="no image of a known person in 1 shard"):
        checked(checkpoint, tmp_path)
