"""Synthetic pedestrians: what their files say, and that the mask and the picture are of the same person."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from jobs.datasets.names import parse_key
from jobs.datasets.recognise import list_dataset
from jobs.errors import UserError
from jobs.pedestrians import dataset
from jobs.pedestrians.canvas import BAG, HEAD, LEGS, TORSO, Canvas, Cloth, FigurePlace
from jobs.pedestrians.crowd import FOLDERS, Counts, Crowd, Shot
from jobs.pedestrians.dataset import make_pedestrians, write_pedestrian_shards
from jobs.pedestrians.figure import Look, Pose, draw_person
from jobs.pedestrians.looks import looks, traits_of
from jobs.pedestrians.photo import Photo, camera_of, draw, take
from jobs.pedestrians.scene import choose_pose, draw_scene, take_picture
from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import expand_shards

SMALL = {"train": 2, "test": 3, "images_per_camera": 3, "cameras": 2, "distractors": 7, "junk": 4}
SHIRT, TROUSERS, RUCKSACK = (200, 10, 20), (10, 30, 220), (20, 180, 40)
PLACE = FigurePlace(x=32, feet=120, height=100)


def person(**changes: object) -> Look:
    """Red shirt, blue trousers, green backpack."""
    look = Look(
        upper=Cloth(SHIRT),
        lower=Cloth(TROUSERS),
        lower_kind="trousers",
        long_sleeves=True,
        bag="backpack",
        bag_colour=RUCKSACK,
        hat="none",
        hat_colour=(0, 0, 0),
        hair=(30, 20, 10),
        long_hair=False,
        skin=(230, 190, 160),
        shoes=(50, 50, 50),
        width=1.0,
        hip=0.51,
    )
    return replace(look, **changes)  # type: ignore[arg-type]


def drawn(look: Look, view: str, stride: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The image and the labels of one person in front of nothing."""
    canvas = Canvas()
    draw_person(canvas, look, Pose(view=view, stride=stride, arms=0.1), PLACE)
    return canvas.image(), canvas.labels()


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pedestrians") / "market"
    make_pedestrians(folder, **SMALL)
    return folder


@pytest.fixture(scope="module")
def shots() -> list[Shot]:
    """Images of persons of the usual dataset, from all cameras alike."""
    return [shot for shot in Crowd().shots() if shot.parsed.pid > 0][::11]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(small: Path, tmp_path: Path) -> None:
    make_pedestrians(tmp_path / "again", **SMALL)
    make_pedestrians(tmp_path / "other", **SMALL, seed=1)
    first, other = digests(small), digests(tmp_path / "other")
    assert digests(tmp_path / "again") == first
    assert first.keys() == other.keys()
    assert not any(other[name] == digest for name, digest in first.items() if name.endswith(".jpg"))
    assert len(set(first.values())) > 0.9 * len(first)  # only the masks of images of nobody are the same


def test_an_image_does_not_depend_on_the_others(small: Path) -> None:
    more = Crowd(**{**SMALL, "images_per_camera": 5, "cameras": 4, "distractors": 0}).shots()
    train = {shot.key: shot for shot in more if shot.split == "train"}
    found = sorted((small / "bounding_box_train").iterdir())
    assert len(found) == 12
    for path in found:
        assert take(train[path.stem], seed=0).jpeg == path.read_bytes()


def test_splits_are_those_of_market1501(small: Path, tmp_path: Path) -> None:
    # 2 x 2 cameras x 3 images; a query per test identity and camera; 3 x 2 x 2 others, 7 distractors, 4 junk
    assert make_pedestrians(tmp_path / "x", **SMALL) == Counts(train=12, query=6, gallery=23, distractors=7, junk=4)
    listing = list_dataset(small)
    assert listing.dataset == "market1501"
    assert not listing.ignored
    assert Counter(record.split for record in listing.records) == {"train": 12, "query": 6, "gallery": 23}
    by_split = {split: [r for r in listing.records if r.split == split] for split in ("train", "query", "gallery")}
    assert {r.parsed.pid for r in by_split["train"]} == {1, 2}
    assert Counter((r.parsed.pid, r.parsed.camid) for r in by_split["query"]) == {
        (pid, camid): 1 for pid in (3, 4, 5) for camid in (0, 1)
    }
    assert Counter(r.parsed.pid for r in by_split["gallery"]) == {-1: 4, 0: 7, 3: 4, 4: 4, 5: 4}
    assert not {r.key for r in by_split["query"]} & {r.key for r in by_split["gallery"]}
    assert {r.key[:7] for r in by_split["gallery"] if r.parsed.pid < 1} == {"-1_c1s1", "-1_c2s1", "0000_c1", "0000_c2"}


def test_names_parse_and_are_unique() -> None:
    all_shots = Crowd().shots()
    assert len(all_shots) == (768 + 48) * 6 * 3 + 60 + 24
    assert len({shot.key for shot in all_shots}) == len(all_shots)
    assert all(parse_key(shot.key) == shot.parsed for shot in all_shots)


def test_every_image_is_a_small_jpeg_with_a_mask_beside_it(small: Path) -> None:
    for record in list_dataset(small).records:
        image = cv2.imread(str(record.path), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(small / "masks" / record.path.parent.name / f"{record.key}.png"), cv2.IMREAD_UNCHANGED)
        assert image.shape == (128, 64, 3)
        assert mask.shape == (128, 64)
        assert mask.dtype == np.uint8
        assert mask.max() <= BAG
        assert record.parsed.pid <= 0 or {HEAD, TORSO, LEGS} <= set(np.unique(mask).tolist())


def test_parts_are_where_a_body_has_them() -> None:
    # A figure of 100 pixels from y=20 to y=120: its y in hundredths, moved down by 20.
    _, labels = drawn(person(), "back")
    assert labels[20 + 7, 32] == HEAD
    assert labels[20 + 22, 32] == BAG  # its upper edge is at 0.195
    assert labels[20 + 46, 32] == TORSO
    assert labels[20 + 75, 32 - 5] == LEGS
    assert labels[20 + 75, 32 + 5] == LEGS
    assert labels[20 + 90, 32] == 0  # between the legs
    rows = np.flatnonzero(labels.any(axis=1))
    assert 19 <= rows[0] <= 21
    assert 117 <= rows[-1] <= 120


@pytest.mark.parametrize("view", ["front", "back", "left", "right"])
def test_the_mask_lies_on_the_colours_of_the_person(view: str) -> None:
    image, labels = drawn(person(), view, stride=0.7)
    for part, colour in ((TORSO, SHIRT), (LEGS, TROUSERS), (BAG, RUCKSACK)):
        # Away from the outline, a part shows its material, in full light or weaker, or skin or shoes.
        inside = cv2.erode((labels == part).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        seen = image[inside].astype(int)
        # Shading scales a colour: only its channels' proportions stay.
        aligned = np.abs(seen / np.linalg.norm(seen, axis=1, keepdims=True) - colour / np.linalg.norm(colour))
        assert len(seen) >= 13, part
        assert (aligned.max(axis=1) < 0.03).mean() > 0.85
        assert (seen == colour).all(axis=1).any()
    # and nobody stands where the mask says background
    outside = cv2.dilate((labels > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    assert not image[outside].any()
    assert image[labels > 0].any(axis=1).all()


def test_a_backpack_is_behind_whoever_walks_left_or_right() -> None:
    for view, side in (("left", 1), ("right", -1)):
        _, labels = drawn(person(), view)
        _, xs = np.nonzero(labels == BAG)
        assert (np.sign(xs - 32) == side).all()
    assert (drawn(person(), "back")[1] == BAG).sum() > 3 * (drawn(person(), "front")[1] == BAG).sum()
    assert not (drawn(person(bag="none"), "back")[1] == BAG).any()


def test_stripes_alternate_down_the_shirt_and_checks_across_too() -> None:
    other = (250, 250, 250)
    for pattern, across in (("stripes", 1), ("checks", 3)):
        image, _ = drawn(person(upper=Cloth(SHIRT, pattern, other), bag="none"), "back")
        bright = image[20 + 20 : 20 + 52, 25:40, 1] > 130
        assert 4 <= np.count_nonzero(np.diff(bright[:, 7])) <= 8  # 32 rows, a cell of 4.4
        assert across - 1 <= np.count_nonzero(np.diff(bright[2])) <= across


def test_what_stands_in_front_is_cut_out_of_the_mask() -> None:
    hidden = 0
    for number in range(12):
        camera, where = camera_of(0, number % 6), FigurePlace(x=32, feet=122, height=95)
        pose = choose_pose(camera.views, np.random.default_rng(number))
        free, covered = (
            draw_scene(replace(camera, hidden=p), person(), pose, where, [], np.random.default_rng(number))
            for p in (0.0, 1.0)
        )
        cut = free.labels != covered.labels
        assert not covered.labels[cut].any()
        if cut.any():
            assert (free.image[cut] != covered.image[cut]).any(axis=1).mean() > 0.9
        assert (covered.labels > 0).sum() > 0.5 * (free.labels > 0).sum()
        hidden += bool(cut.any())
    assert hidden >= 10  # a pole may stand beside


def test_bystanders_and_clutter_are_background() -> None:
    camera, rng = camera_of(0, 0), np.random.default_rng(0)
    pose = choose_pose(camera.views, rng)
    scene = draw_scene(camera, None, pose, PLACE, looks(0, 4)[:4], rng)
    assert not scene.labels.any()
    colours = np.unique(scene.image.reshape(-1, 3), axis=0)
    assert np.ptp(colours.max(axis=1).astype(int) - colours.min(axis=1)) > 120  # grey walls, and clothes' colours


def test_the_camera_spoils_a_picture_but_keeps_the_scene() -> None:
    shot = Crowd().shots()[0]
    scene, picture = draw(shot, seed=0)
    assert picture.dtype == np.uint8
    again = take_picture(scene, camera_of(0, shot.parsed.camid), np.random.default_rng(5))
    assert (again != picture).any()
    bright, seen = scene.image.mean(axis=2).ravel(), picture.mean(axis=2).ravel()
    assert 0.85 < np.corrcoef(bright, seen)[0, 1] < 0.999


def test_no_fixed_map_describes_where_persons_are(shots: list[Shot]) -> None:
    masks = np.stack([draw(shot, seed=0)[0].labels > 0 for shot in shots])
    columns, rows = masks.any(axis=1), masks.any(axis=2)
    centres = (columns * np.arange(64)).sum(axis=1) / columns.sum(axis=1) / 64
    heights = rows.sum(axis=1) / 128
    low, high = np.percentile(centres, (5, 95))
    assert low < 0.35
    assert high > 0.64
    assert np.percentile(heights, 5) < 0.78 < 0.94 < np.percentile(heights, 95)
    mean = masks.mean(axis=0)
    assert mean.max() < 0.9  # even the best fixed point misses one person in ten
    ratio = (masks * mean).sum(axis=(1, 2)) / mean.sum() / masks.mean(axis=(1, 2))
    assert ratio.mean() < 2.2  # the same figures in the middle give 2.7


def nearest_is_right(features: np.ndarray, pids: np.ndarray, cams: np.ndarray) -> float:
    """How often the nearest image of the other cameras shows the same person, each camera's mean taken off."""
    centred = features.copy()
    for cam in np.unique(cams):
        centred[cams == cam] -= features[cams == cam].mean(axis=0)
    distances = ((centred[:, None] - centred[None]) ** 2).sum(axis=2)
    distances[cams[:, None] == cams[None]] = np.inf
    return float((pids[distances.argmin(axis=1)] == pids).mean())


def test_the_person_tells_who_it_is_and_the_background_does_not() -> None:
    chosen = Crowd(train=24, test=0, cameras=4, distractors=0, junk=0).shots()
    person_colours, background_colours = [], []
    for shot in chosen:
        scene, picture = draw(shot, seed=0)
        rows = np.flatnonzero((scene.labels > 0).any(axis=1))
        for features, mask in ((person_colours, scene.labels > 0), (background_colours, scene.labels == 0)):
            stripes = np.array_split(np.arange(rows[0], rows[-1] + 1), 6)
            features.append(np.concatenate([picture[r][mask[r]].mean(axis=0) for r in stripes]))
    pids = np.array([shot.parsed.pid for shot in chosen])
    cams = np.array([shot.parsed.camid for shot in chosen])
    assert nearest_is_right(np.array(person_colours), pids, cams) > 0.8
    assert nearest_is_right(np.array(background_colours), pids, cams) < 0.12  # chance is 1 in 24


def test_looks_differ_in_two_traits_and_share_colours() -> None:
    known = looks(3, 100)[:100]
    traits = [traits_of(look) for look in known]
    assert min(sum(a != b for a, b in zip(*pair, strict=True)) for pair in combinations(traits, 2)) >= 2
    assert sum(a.upper.colour == b.upper.colour for a, b in combinations(known, 2)) > 100
    assert looks(3, 150)[:100] == known
    assert looks(4, 100)[:100] != known


def test_shards_hold_the_same_images_and_their_masks(small: Path, tmp_path: Path) -> None:
    paths = write_pedestrian_shards(tmp_path / "shards", images_per_shard=10, **SMALL)
    names = ["train-000000", "train-000001", "query-000000", *(f"gallery-00000{n}" for n in range(3))]
    assert [path.name for path in paths] == [f"{name}.tar" for name in names]
    seen = 0
    for shard in expand_shards([str(tmp_path / "shards")]):
        with TarReader(shard) as tar:
            members = list(tar)
        data = {member.name: member.data for member in members}
        for sample, image in read_samples(members, shard.name):
            folder = FOLDERS[sample.split or ""]
            assert sample.status == "ok", sample.error
            assert parse_key(sample.key) is not None
            assert image == (small / folder / f"{sample.key}.jpg").read_bytes()
            assert data[f"{sample.key}.mask.png"] == (small / "masks" / folder / f"{sample.key}.png").read_bytes()
            seen += 1
    assert seen == 12 + 6 + 23


def test_the_shard_reader_takes_every_sample(tmp_path: Path) -> None:
    from jobs.shards.reader import Batch, ShardReader

    write_pedestrian_shards(tmp_path, **SMALL)
    with ShardReader(image_size=(128, 64), batch_size=16, workers=0) as reader:
        batches = [item for item in reader.read(expand_shards([str(tmp_path)])) if isinstance(item, Batch)]
    samples = [sample for batch in batches for sample in batch.samples]
    assert Counter(sample.split for sample in samples) == {"train": 12, "query": 6, "gallery": 23}
    assert all((sample.status, sample.width, sample.height) == ("ok", 64, 128) for sample in samples)
    assert sum(len(batch.images) for batch in batches) == 41


def test_shards_are_the_same_bytes_and_are_kept_on_a_second_call(tmp_path: Path) -> None:
    first = write_pedestrian_shards(tmp_path / "a", splits=("query", "gallery"), **SMALL)
    write_pedestrian_shards(tmp_path / "b", splits=("gallery", "query"), **SMALL)
    assert [path.name for path in first] == ["query-000000.tar", "gallery-000000.tar"]
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    first[0].unlink()  # as if the first call had been interrupted
    kept = first[1].stat().st_mtime_ns, first[1].stat().st_ino
    write_pedestrian_shards(tmp_path / "a", splits=("query", "gallery"), **SMALL)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert (first[1].stat().st_mtime_ns, first[1].stat().st_ino) == kept
    with pytest.raises(UserError, match="other pedestrians"):
        write_pedestrian_shards(tmp_path / "a", splits=("query", "gallery"), **{**SMALL, "seed": 9})


def test_an_interrupted_dataset_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(5))

    def breaks_off(shot: Shot, seed: int) -> Photo:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return take(shot, seed)

    monkeypatch.setattr(dataset, "take", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        make_pedestrians(tmp_path / "market", **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"images_per_camera": 1}, "images_per_camera is 1, it must be 2 or more"),
        ({"train": 9000, "test": 1000}, "10000 identities"),
        ({"seed": -1}, "seed is -1"),
        ({"test": 0}, "24 junk images"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_pedestrians(tmp_path / "market", **sizes)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_and_an_unknown_split_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there already"):
        make_pedestrians(small, **SMALL)
    with pytest.raises(UserError, match="unknown split val; known are train, query, gallery"):
        write_pedestrian_shards(tmp_path, splits=("val",), **SMALL)


def test_drawing_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from jobs.pedestrians.crowd import Crowd; from jobs.pedestrians.photo import take;"
        "import jobs.pedestrians.dataset; take(Crowd().shots()[0], 0);"
        "assert not {'torch', 'webdataset'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shards_say_who_is_a_person(tmp_path: Path) -> None:
    write_pedestrian_shards(tmp_path, train=1, test=1, cameras=1, images_per_camera=2, distractors=1, junk=1)
    found = set()
    for path in tmp_path.glob("*.tar"):
        with tarfile.open(path) as tar:
            for name in (name for name in tar.getnames() if name.endswith(".json")):
                note = json.load(tar.extractfile(name))  # type: ignore[arg-type]
                found.add((note["split"], note["pid"], note["role"], note["identity"]))
    assert found == {
        ("train", 1, "person", "0001"),
        ("query", 2, "person", "0002"),
        ("gallery", 2, "person", "0002"),
        ("gallery", 0, "distractor", None),
        ("gallery", -1, "junk", None),
    }
