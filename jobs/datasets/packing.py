"""Packing records into tar shards: planned first, then written one by one, each whole or not at all (no torch)."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import IO

from jobs.atomic import StagedFile, make_folder, remove_leftovers, write_once
from jobs.datasets.layouts import Record
from jobs.errors import UserError

PLAN = "shards.json"


@dataclass(frozen=True)
class PlannedShard:
    """A shard to be written: its file name and the records that go into it, in order."""

    file: str
    records: tuple[Record, ...]


def plan_shards(records: Sequence[Record], images_per_shard: int, seed: int | None) -> list[PlannedShard]:
    """Cuts each split into shards of at most `images_per_shard`, sorted by key, or shuffled by a seed.

    Splits never share a shard. Raises UserError naming two images of one split that have the same key.
    """
    shards = []
    for split, group in groupby(sorted(records, key=lambda r: (r.split, r.key, str(r.path))), lambda r: r.split):
        chosen = list(group)
        for one, other in pairwise(chosen):
            if one.key == other.key:
                raise UserError(f"{one.path} and {other.path} would both be {one.key!r} in split {split}; rename one")
        if seed is not None:
            random.Random(f"{seed}:{split}").shuffle(chosen)
        for number, start in enumerate(range(0, len(chosen), images_per_shard)):
            part = tuple(chosen[start : start + images_per_shard])
            shards.append(PlannedShard(f"{split}-{number:06d}.tar", part))
    return shards


def write_shards(folder: Path, plan: Sequence[PlannedShard], asked: dict[str, object]) -> Iterator[PlannedShard]:
    """Writes the shards that are not there yet, yielding each one that is finished, old or new.

    `shards.json` keeps the plan; a shard under its final name is whole, so an interrupted run goes on where it
    stopped. Raises UserError if the folder holds the shards of another plan.
    """
    make_folder(folder)
    _claim(folder, plan, asked)
    remove_leftovers(folder)
    for shard in plan:
        final = folder / shard.file
        if not final.exists():
            with StagedFile(final) as staged:
                write_tar(staged.file, shard.records)
                staged.sync()
                staged.publish()
        yield shard


def write_tar(file: IO[bytes], records: Sequence[Record]) -> None:
    """Writes each record as `<key>.json` and `<key>.<suffix>`, the image's bytes untouched.

    Headers carry no times or owners: the same images give the same bytes.
    """
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for record in records:
            try:
                image = record.path.read_bytes()
            except OSError as error:
                raise UserError(f"cannot read {record.path}: {error.strerror}") from error
            _add(tar, f"{record.key}.json", _metadata(record))
            _add(tar, f"{record.key}{record.path.suffix.lower()}", image)


def discard_plan(folder: Path) -> list[str]:
    """Removes the shards that shards.json names, and shards.json; returns their names. Other files stay."""
    plan = folder / PLAN
    if not plan.exists():
        return []
    names = [entry["file"] for entry in json.loads(plan.read_bytes())["shards"]]
    removed = []
    for name in names:
        path = folder / Path(name).name
        if path.exists():
            path.unlink()
            removed.append(path.name)
    plan.unlink()
    return removed


def _claim(folder: Path, plan: Sequence[PlannedShard], asked: dict[str, object]) -> None:
    content = {**asked, "shards": [_entry(shard) for shard in plan]}
    path = folder / PLAN
    if write_once(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()):
        return
    try:
        there = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON; remove it, or choose another folder") from error
    different = [key for key in content if there.get(key) != content[key]]
    if different:
        said = "; ".join(
            f"{key} was {there.get(key)!r} and is now {content[key]!r}" for key in different if key != "shards"
        )
        raise UserError(
            f"{folder} holds shards of another request ({said or 'the images are others'}); "
            "choose another folder, or --overwrite"
        )


def _entry(shard: PlannedShard) -> dict[str, object]:
    """A shard in the plan: its images by a hash of their keys and metadata, so that a changed dataset is noticed."""
    digest = hashlib.sha256()
    for record in shard.records:
        digest.update(f"{record.key}{record.path.suffix}".encode() + _metadata(record))
    return {"file": shard.file, "images": len(shard.records), "keys_sha256": digest.hexdigest()}


def _metadata(record: Record) -> bytes:
    return json.dumps({**asdict(record.parsed), "split": record.split}).encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    tar.addfile(info, io.BytesIO(data))
