"""Whether a tar that is there is a shard of the plan, of these bytes; and removing the shards that are (no torch)."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from jobs.atomic import sha256_of
from jobs.datasets.plan_file import ListedShard, read_plan
from jobs.datasets.shard_plan import PLAN
from jobs.errors import UserError
from jobs.phrases import counted, first_few, one_line, shown


@dataclass(frozen=True)
class Difference:
    """Why a tar is not the one that would be written. `only_images`: the same samples, with other images in them."""

    reason: str
    only_images: bool = False


def compare_with_list(path: Path, listed: ListedShard) -> str | None:
    """Why a tar is not the one that was packed, by the size and hash that are listed; None if it is."""
    if not path.is_file():
        return "it is not a file"
    size = path.stat().st_size
    if listed.bytes is not None and size != listed.bytes:
        return f"it has {size:,} bytes and {listed.bytes:,} were packed"
    if listed.sha256 is not None and sha256_of(path) != listed.sha256:
        return "its bytes are not those that were packed"
    return None


def compare_with_samples(path: Path, members: Iterator[tuple[str, bytes]]) -> Difference | None:
    """What a tar has that is not in the (name, content) of `members`; None if it is whole and has just these.

    Metadata may lack what earlier versions did not write. Raises UserError if an image cannot be read.
    """
    if not path.is_file():
        return Difference("it is not a file")
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            difference = _compare_members(tar, members)
            return difference if difference and not difference.only_images else _check_end(tar) or difference
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        return Difference(f"it is not a whole tar: {one_line(error)}")


def remove_listed(folder: Path) -> list[str]:
    """Removes the shards that shards.json lists, and shards.json; returns their names. All other files stay.

    Raises UserError, before anything is removed, if shards.json is damaged or a file is not the shard that it lists.
    """
    plan = read_plan(folder)
    if plan is None:
        return []
    there = [shard for shard in plan.shards if (folder / shard.file).exists()]
    reasons = [(shard.file, _not_ours(folder / shard.file, shard)) for shard in there]
    if others := [f"{file} ({reason})" for file, reason in reasons if reason]:
        raise UserError(
            f"{folder} has files that are not the shards that {PLAN} lists: {first_few(others)}; "
            "nothing was removed: move them away first"
        )
    for shard in there:
        (folder / shard.file).unlink()
    (folder / PLAN).unlink()
    return [shard.file for shard in there]


def _compare_members(tar: tarfile.TarFile, members: Iterator[tuple[str, bytes]]) -> Difference | None:
    changed = []
    for wanted, info in zip_longest(members, tar):
        if wanted is None or info is None:
            return Difference("it has more samples" if wanted is None else "it has fewer samples")
        name, content = wanted
        if info.name != name:
            return Difference(f"it has {shown(info.name)} where {shown(name)} belongs")
        file = tar.extractfile(info) if info.isreg() else None
        data = b"" if file is None else file.read()
        if file is None or len(data) != info.size:
            return Difference(f"{shown(name)} is not whole")
        if name.endswith(".json"):
            if not _says_the_same(data, content):
                return Difference(f"{shown(name)} has other metadata")
        elif data != content:
            changed.append(name)
    return Difference(f"other images: {first_few(changed)}", only_images=True) if changed else None


def _says_the_same(data: bytes, wanted: bytes) -> bool:
    """Whether a note is what would be written, or the part of it that earlier versions wrote."""
    if data == wanted:
        return True
    found, all_of_it = json.loads(data), json.loads(wanted)
    return isinstance(found, dict) and {"pid", "camid", "split"} <= found.keys() and found.items() <= all_of_it.items()


def _check_end(tar: tarfile.TarFile) -> Difference | None:
    """The archive must end in two zero blocks, and nothing but zeros may follow."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    end = tar.fileobj.read(2 * tarfile.BLOCKSIZE)
    if len(end) < 2 * tarfile.BLOCKSIZE:
        return Difference("it is not a whole tar: its end is missing")
    if end.strip(b"\0"):
        return Difference("it is not a whole tar: a header is damaged")
    while rest := tar.fileobj.read(1 << 20):
        if rest.strip(b"\0"):
            return Difference("more follows its end")
    return None


def _not_ours(path: Path, listed: ListedShard) -> str | None:
    """Why a file is not the shard that is listed; None if it is, as far as the list says what it is."""
    if (reason := compare_with_list(path, listed)) or listed.sha256 is not None:
        return reason
    try:
        with tarfile.open(path, "r:") as tar:
            notes = sum(info.name.endswith(".json") for info in tar)
            end = _check_end(tar)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        return f"it is not a whole tar: {one_line(error)}"
    if end is not None:
        return end.reason
    return None if notes == listed.images else f"it has {counted(notes, 'sample')} and {listed.images} are listed"
