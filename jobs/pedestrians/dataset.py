"""The drawn data set on disk: a folder as Market-1501 is laid out, or tar shards, with a mask beside each image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from jobs.atomic import StagedFile, make_folder, write_once
from jobs.datasets.shard_plan import PLAN
from jobs.datasets.tar_writer import sample_json, write_members
from jobs.errors import UserError
from jobs.identity import who_is
from jobs.image_names import MASK_SUFFIX
from jobs.leftovers import scratch_folder
from jobs.pedestrians.crowd import FOLDERS, Counts, Crowd, Shot, count_images
from jobs.pedestrians.photo import take
from jobs.system_errors import naming

DRAWING_VERSION = 1  # to be raised with every change that makes other pictures of the same request


def make_pedestrians(folder: Path, **sizes: int) -> Counts:
    """Draws the data set into `folder` as Market-1501 is laid out, and the masks likewise into `folder/masks`.

    `sizes` are the fields of Crowd. The folder appears whole or not at all. Raises UserError if it exists and is not
    empty.
    """
    crowd = Crowd(**sizes)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; remove it, or name another folder for the pedestrians")
    make_folder(folder.parent)
    shots = crowd.shots()
    with naming(folder), scratch_folder(folder.parent, folder.name) as scratch:
        unfinished = scratch / "whole"
        for name in FOLDERS.values():
            (unfinished / name).mkdir(parents=True)
            (unfinished / "masks" / name).mkdir(parents=True)
        for shot in shots:
            photo = take(shot, crowd.seed)
            (unfinished / FOLDERS[shot.split] / f"{shot.key}.jpg").write_bytes(photo.jpeg)
            (unfinished / "masks" / FOLDERS[shot.split] / f"{shot.key}.png").write_bytes(photo.mask)
        unfinished.replace(folder)
    return count_images(shots)


def write_pedestrian_shards(
    dest: Path,
    *,
    images_per_shard: int = 512,
    splits: Sequence[str] = tuple(FOLDERS),
    **sizes: int,
) -> list[Path]:
    """Draws the data set, or some of its splits, into tar shards `<split>-000000.tar` and returns their paths.

    `sizes` are the fields of Crowd. A sample is `<key>.json`, `<key>.jpg` and `<key>.mask.png`. Shards that an
    interrupted call has finished are kept. Raises UserError if the folder holds shards of another request.
    """
    crowd = Crowd(**sizes)
    plan = _plan(crowd, images_per_shard, splits)
    make_folder(dest)
    _claim(dest, crowd, plan)
    for name, shots in plan.items():
        if not (dest / name).exists():
            with StagedFile(dest / name) as staged:
                write_members(staged.file, _members(shots, crowd.seed))
                staged.sync()
                staged.publish()
    return [dest / name for name in plan]


def _plan(crowd: Crowd, images_per_shard: int, splits: Sequence[str]) -> dict[str, list[Shot]]:
    """The name of each shard, in order, and its images."""
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


def _claim(dest: Path, crowd: Crowd, plan: Mapping[str, Sequence[Shot]]) -> None:
    """Writes the request beside the shards, in the form that the shards of any data set have beside them.

    Raises UserError where another request is there.
    """
    shards = [{"file": name, "images": len(shots)} for name, shots in plan.items()]
    content = {"pedestrians": asdict(crowd), "drawing_version": DRAWING_VERSION, "shards": shards}
    data = (json.dumps(content, indent=1) + "\n").encode()
    path = dest / PLAN
    with naming(path):
        is_another = not write_once(path, data) and path.read_bytes() != data
    if is_another:
        raise UserError(f"{path} is of other pedestrians than these; name another folder, or remove {dest}")


def _members(shots: Sequence[Shot], seed: int) -> Iterator[tuple[str, bytes]]:
    """The files of the samples, drawn one sample at a time."""
    for shot in shots:
        photo = take(shot, seed)
        yield f"{shot.key}.json", sample_json(shot.parsed, shot.split, who_is(shot.parsed.pid, shot.key))
        yield f"{shot.key}.jpg", photo.jpeg
        yield f"{shot.key}{MASK_SUFFIX}", photo.mask
