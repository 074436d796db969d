"""Synthetic pedestrians: a dataset shaped as Market-1501, drawn from a seed, with a mask of the body's parts.

Every image depends on the seed, its identity, its camera and its number alone, so any one can be drawn by itself.
"""

from __future__ import annotations

import functools
import io
import json
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from jobs.atomic import StagedFile, make_folder, remove_leftovers, write_once
from jobs.datasets.layouts import ParsedKey
from jobs.datasets.packing import PLAN
from jobs.errors import UserError
from jobs.pedestrians.canvas import Pixels
from jobs.pedestrians.looks import choose_look, looks
from jobs.pedestrians.scene import (
    Camera,
    Scene,
    choose_bad_place,
    choose_place,
    choose_pose,
    draw_scene,
    make_camera,
    take_picture,
)

DRAWING_VERSION = 1  # raise it with every change that makes other pictures of the same request
FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
MASK_SUFFIX = ".mask.png"  # in a shard; a reader of images passes it over

_JPEG_QUALITY = 90
_CAMERA, _SHOT = 1, 2  # streams of random numbers; looks have 0
_EMPTY_DISTRACTORS = 3  # one of so many distractors shows nobody, as a detector's false alarm does


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Images per split. `gallery` counts all of bounding_box_test, its distractors and junk included."""

    train: int
    query: int
    gallery: int
    distractors: int
    junk: int


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """A dataset to be drawn. Raises UserError for sizes that Market-1501's names and protocol do not allow."""

    train: int = 768
    test: int = 48
    images_per_camera: int = 3
    cameras: int = 6
    seed: int = 0
    distractors: int = 60
    junk: int = 24

    def __post_init__(self) -> None:
        least = {"train": 0, "test": 0, "images_per_camera": 2, "cameras": 1, "seed": 0, "distractors": 0, "junk": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UserError(f"pedestrians: {name} is {getattr(self, name)}, it must be {bound} or more")
        if self.train + self.test > 9999:
            raise UserError(f"pedestrians: {self.train + self.test} identities, but names have room for 9999")
        if self.junk and not self.test:
            raise UserError(f"pedestrians: {self.junk} junk images need a test identity to show; set junk to 0")

    def shots(self) -> list[Shot]:
        """All images in the order train, query, gallery, within each by key."""
        shots = [
            Shot(
                split=self._split_of(pid, number),
                parsed=ParsedKey(pid=pid, camid=camid, seq=1 + number % 2, frame=_frame(pid, number)),
                number=number,
                who=pid - 1,
            )
            for pid in range(1, self.train + self.test + 1)
            for camid in range(self.cameras)
            for number in range(self.images_per_camera)
        ]
        people = self.train + self.test
        for extra in range(self.distractors):
            empty = extra // self.cameras % _EMPTY_DISTRACTORS == 0
            shots.append(self._extra(0, extra, None if empty else people + extra))
        for extra in range(self.junk):
            shots.append(self._extra(-1, extra, self.train + extra % self.test))
        return sorted(shots, key=lambda shot: (tuple(FOLDERS).index(shot.split), shot.key))

    def _split_of(self, pid: int, number: int) -> str:
        """As in Market-1501, a test identity is asked for by one image per camera, which the gallery lacks."""
        if pid <= self.train:
            return "train"
        return "query" if number == 0 else "gallery"

    def _extra(self, pid: int, extra: int, who: int | None) -> Shot:
        number = extra // self.cameras
        parsed = ParsedKey(pid=pid, camid=extra % self.cameras, seq=1, frame=_frame(pid, number))
        return Shot(split="gallery", parsed=parsed, number=number, who=who)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One image to be drawn. `who` counts the looks of a seed; None shows nobody."""

    split: str
    parsed: ParsedKey
    number: int
    who: int | None

    @property
    def key(self) -> str:
        """The base name that Market-1501 would give it."""
        p = self.parsed
        pid = f"{p.pid:04d}" if p.pid >= 0 else str(p.pid)
        return f"{pid}_c{p.camid + 1}s{p.seq}_{p.frame:06d}_{self.number:02d}"


@dataclass(frozen=True)
class Photo:
    """An image as JPEG, and its mask as PNG: one channel of labels, see `pedestrian_drawing.PARTS`."""

    jpeg: bytes
    mask: bytes


def make_pedestrians(folder: Path, **sizes: int) -> Counts:
    """Draws the dataset into `folder` as Market-1501 is laid out, the masks below `folder/masks` likewise.

    `sizes` are the fields of Crowd. The folder appears whole or not at all. Raises UserError if it is there already
    and not empty.
    """
    crowd = Crowd(**sizes)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; remove it, or name another folder for the pedestrians")
    make_folder(folder.parent)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        shots = crowd.shots()
        for name in FOLDERS.values():
            (unfinished / name).mkdir()
            (unfinished / "masks" / name).mkdir(parents=True)
        for shot in shots:
            photo = take(shot, crowd.seed)
            (unfinished / FOLDERS[shot.split] / f"{shot.key}.jpg").write_bytes(photo.jpeg)
            (unfinished / "masks" / FOLDERS[shot.split] / f"{shot.key}.png").write_bytes(photo.mask)
        unfinished.chmod(0o755)  # mkdtemp's are private
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return _count(shots)


def write_pedestrian_shards(
    dest: Path,
    *,
    images_per_shard: int = 512,
    splits: Sequence[str] = tuple(FOLDERS),
    **sizes: int,
) -> list[Path]:
    """Draws the dataset, or some of its splits, straight into tar shards `<split>-000000.tar`; returns their paths.

    `sizes` are the fields of Crowd. A sample is `<key>.json`, `<key>.jpg` and `<key>.mask.png`. Shards that an
    interrupted call has finished are kept. Raises UserError if the folder holds shards of another request.
    """
    crowd = Crowd(**sizes)
    plan = _plan(crowd, images_per_shard, splits)
    make_folder(dest)
    _claim(dest, crowd, plan)
    remove_leftovers(dest)
    for name, shots in plan.items():
        if not (dest / name).exists():
            with StagedFile(dest / name) as staged:
                _write_tar(staged.file, shots, crowd.seed)
                staged.sync()
                staged.publish()
    return [dest / name for name in plan]


def take(shot: Shot, seed: int) -> Photo:
    """Draws one image and encodes it: the same bytes for the same shot and seed."""
    scene, image = draw(shot, seed)
    return Photo(
        _encoded(".jpg", image[:, :, ::-1], cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY),
        _encoded(".png", scene.labels, cv2.IMWRITE_PNG_COMPRESSION, 6),
    )


def draw(shot: Shot, seed: int) -> tuple[Scene, Pixels]:
    """The scene, labels included, and the picture that its camera takes of it: (128, 64, 3) uint8 RGB."""
    p = shot.parsed
    rng = np.random.default_rng((seed, _SHOT, p.pid + 1, p.camid, shot.number))  # none may be negative
    camera = camera_of(seed, p.camid)
    place = choose_bad_place(rng) if p.pid < 0 else choose_place(camera, rng)
    look = None if shot.who is None else looks(seed, shot.who + 1)[shot.who]
    bystanders = [choose_look(rng) for _ in range(int(rng.random() < 0.25))]
    scene = draw_scene(camera, look, choose_pose(camera.views, rng), place, bystanders, rng)
    return scene, take_picture(scene, camera, rng)


@functools.lru_cache(maxsize=256)
def camera_of(seed: int, camid: int) -> Camera:
    """The camera of a 0-based id."""
    return make_camera(np.random.default_rng((seed, _CAMERA, camid)), camid)


def _frame(pid: int, number: int) -> int:
    """A frame of the film that the image could be from; names need one."""
    return 1 + 25 * number + 100 * max(pid, 0)


def _encoded(suffix: str, image: Pixels, option: int, value: int) -> bytes:
    done, data = cv2.imencode(suffix, image, [option, value])
    assert done, suffix
    return data.tobytes()


def _count(shots: Sequence[Shot]) -> Counts:
    splits, pids = Counter(shot.split for shot in shots), Counter(shot.parsed.pid for shot in shots)
    return Counts(
        train=splits["train"], query=splits["query"], gallery=splits["gallery"], distractors=pids[0], junk=pids[-1]
    )


def _plan(crowd: Crowd, images_per_shard: int, splits: Sequence[str]) -> dict[str, list[Shot]]:
    """Shards in order: their names and what goes into them."""
    if images_per_shard < 1:
        raise UserError(f"pedestrians: images_per_shard is {images_per_shard}, it must be 1 or more")
    unknown = set(splits) - FOLDERS.keys()
    if unknown:
        raise UserError(f"pedestrians: unknown split {', '.join(sorted(unknown))}; known are {', '.join(FOLDERS)}")
    plan: dict[str, list[Shot]] = {}
    shots = crowd.shots()
    for split in FOLDERS:
        chosen = [shot for shot in shots if shot.split == split and split in splits]
        for number, start in enumerate(range(0, len(chosen), images_per_shard)):
            plan[f"{split}-{number:06d}.tar"] = chosen[start : start + images_per_shard]
    return plan


def _claim(dest: Path, crowd: Crowd, plan: dict[str, list[Shot]]) -> None:
    """Keeps the request beside the shards, in the form in which the shards of a dataset keep theirs."""
    shards = [{"file": name, "images": len(shots)} for name, shots in plan.items()]
    content = {"pedestrians": asdict(crowd), "drawing_version": DRAWING_VERSION, "shards": shards}
    data = (json.dumps(content, indent=1) + "\n").encode()
    path = dest / PLAN
    if not write_once(path, data) and path.read_bytes() != data:
        raise UserError(f"{path} tells of other pedestrians than these; name another folder, or remove {dest}")


def _write_tar(file: IO[bytes], shots: Sequence[Shot], seed: int) -> None:
    """Headers carry no times or owners: the same request gives the same bytes."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for shot in shots:
            for suffix, data in _members(shot, seed):
                info = tarfile.TarInfo(shot.key + suffix)
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))


def _members(shot: Shot, seed: int) -> Iterator[tuple[str, bytes]]:
    photo = take(shot, seed)
    yield ".json", json.dumps({**asdict(shot.parsed), "split": shot.split}).encode()
    yield ".jpg", photo.jpeg
    yield MASK_SUFFIX, photo.mask
