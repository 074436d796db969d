"""Writes the shards of a plan that are not there yet, each whole or not at all, and keeps shards.json (no torch)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.atomic import StagedFile, make_folder, sha256_of, write_once, write_whole
from jobs.datasets.finished import compare_with_list, compare_with_samples
from jobs.datasets.plan_file import (
    ListedPlan,
    ListedShard,
    Sources,
    list_shard,
    plan_content,
    read_plan,
    require_same_request,
)
from jobs.datasets.shard_plan import PLAN, PlannedShard, ShardPlan
from jobs.datasets.tar_writer import read_members, write_members
from jobs.errors import UserError
from jobs.phrases import first_few, one_line
from jobs.progress import ShardProgress
from jobs.system_errors import naming

_SAVE_SECONDS = 10.0  # between two writings of shards.json; a tar that it misses is compared with its images


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What is there of a shard: its entry, whether it must be packed, and why a file in its place is refused."""

    listed: ListedShard
    to_pack: bool
    refused: str | None = None


def write_shards(folder: Path, plan: ShardPlan, sources: Sequence[Sources], progress: ShardProgress) -> list[str]:
    """Writes what is missing of a plan, and packs those shards again whose images changed; returns their names.

    `sources` are the image files of each shard. A tar is kept if it has the bytes that shards.json lists, or just the
    samples of the plan where nothing is listed. Raises UserError for shards of another plan, and for any other file
    under a shard's name; nothing is written then.
    """
    make_folder(folder)
    known = read_plan(folder)
    if known is not None:
        require_same_request(folder, plan, known)
    found = _look(folder, plan, sources, known, progress)
    if refused := [f"{one.listed.file} ({one.refused})" for one in found if one.refused]:
        raise UserError(
            f"{folder} has files under the names of shards that are not these shards: {first_few(refused)}; "
            "move them away and run again, or choose another folder"
        )
    listed = [one.listed for one in found]
    _claim(folder, plan, listed, known)
    changed = []
    saved = time.monotonic()
    try:
        for number, shard in enumerate(plan.shards):
            if found[number].to_pack:
                replaces = (folder / shard.file).exists()
                listed[number], is_new = _pack(folder / shard.file, shard, listed[number], progress)
                progress.finish_shard(sources[number].bytes)
                changed += [shard.file] if replaces and is_new else []
            if time.monotonic() - saved > _SAVE_SECONDS:
                _save(folder, plan, listed)
                saved = time.monotonic()
    except BaseException:
        with contextlib.suppress(OSError, UserError):  # the first error is the one to tell
            _save(folder, plan, listed)
        raise
    _save(folder, plan, listed)
    return changed


def _look(
    folder: Path,
    plan: ShardPlan,
    sources: Sequence[Sources],
    known: ListedPlan | None,
    progress: ShardProgress,
) -> list[_Found]:
    """What is there of each shard. Reads what is there, so that nothing is kept that merely has the right name."""
    entries = known.shards if known is not None else (None,) * len(plan.shards)
    found = []
    for shard, now, entry in zip(plan.shards, sources, entries, strict=True):
        one = _look_at(folder / shard.file, shard, list_shard(shard, now), entry)
        if not one.to_pack:
            progress.advance(len(shard.records), None)
            progress.finish_shard(now.bytes)
        found.append(one)
    return found


def _look_at(path: Path, shard: PlannedShard, wanted: ListedShard, entry: ListedShard | None) -> _Found:
    if not path.exists():
        return _Found(listed=wanted, to_pack=True)
    if entry is not None and entry.sha256 is not None:
        refused = compare_with_list(path, entry)
        if entry.sources_sha256 != wanted.sources_sha256:
            return _Found(listed=wanted, to_pack=True, refused=refused)
        return _Found(listed=replace(wanted, sha256=entry.sha256, bytes=entry.bytes), to_pack=False, refused=refused)
    difference = compare_with_samples(path, read_members(shard.records))
    if difference is None:
        done = replace(wanted, sha256=sha256_of(path), bytes=path.stat().st_size)
        return _Found(listed=done, to_pack=False)
    is_ours = entry is not None and difference.only_images
    return _Found(listed=wanted, to_pack=True, refused=None if is_ours else difference.reason)


def _claim(folder: Path, plan: ShardPlan, listed: Sequence[ListedShard], known: ListedPlan | None) -> None:
    """Writes shards.json before the first tar. A tar that will be replaced is no longer listed with its bytes."""
    if known is not None:
        _save(folder, plan, listed)
        return
    with _writing(folder / PLAN):
        is_ours = write_once(folder / PLAN, plan_content(plan, listed))
    if not is_ours and (other := read_plan(folder)) is not None:  # of another process that has just begun
        require_same_request(folder, plan, other)


def _save(folder: Path, plan: ShardPlan, listed: Sequence[ListedShard]) -> None:
    path, content = folder / PLAN, plan_content(plan, listed)
    try:
        with naming(path):
            is_new = path.read_bytes() != content
    except FileNotFoundError as error:
        raise UserError(f"{path} was removed while shards were packed; run again") from error
    if is_new:
        with _writing(path):
            write_whole(path, content)


def _pack(final: Path, shard: PlannedShard, entry: ListedShard, progress: ShardProgress) -> tuple[ListedShard, bool]:
    """Writes a shard; returns its entry, and whether its bytes were not there before."""
    with _writing(final), StagedFile(final) as staged:
        write_members(staged.file, _count(read_members(shard.records), progress))
        staged.sync()
        done = replace(entry, sha256=sha256_of(staged.path), bytes=staged.path.stat().st_size)
        is_new = not final.exists() or compare_with_list(final, done) is not None
        if is_new:
            staged.publish()
    return done, is_new


def _count(members: Iterator[tuple[str, bytes]], progress: ShardProgress) -> Iterator[tuple[str, bytes]]:
    """The members; each image counts when it has been written."""
    place = 0
    for note, image in zip(members, members, strict=True):
        yield note
        yield image
        place += len(image[1])
        progress.advance(1, place)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Makes one line of a full disk, whose error does not name the file. Errors of reading are UserError before."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or one_line(error)}; run again when this is mended"
        ) from error
