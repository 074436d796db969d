"""The footers of a run's shards, each read once, and checked to be those of its shard and its run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import h5py

from jobs.errors import UserError
from jobs.phrases import counted
from jobs.progress import LongTask
from jobs.runs.footer import ShardFooter, read_facts
from jobs.runs.integrity.belonging import check_metadata, check_pair, open_added, open_file, open_maps
from jobs.runs.layout import RunLayout

T = TypeVar("T")
_FIRST = 64  # shards by which to tell how fast the file system is
_SLOW = 0.0005  # seconds a shard; below it threads take longer than they save
_THREADS = 16  # they wait for the file system of a cluster, which answers many at once


def look_at(shards: Sequence[str], look: Callable[[str], T]) -> Iterator[T]:
    """What `look` returns for each shard, in their order; by many threads where the file system is slow to answer."""
    with LongTask("looking at the shards that are done", len(shards), "shard") as task:
        for found in _looks(shards, look):
            yield found
            task.advance()


def _looks(shards: Sequence[str], look: Callable[[str], T]) -> Iterator[T]:
    began = time.monotonic()
    yield from [look(shard) for shard in shards[:_FIRST]]
    if time.monotonic() - began < _SLOW * _FIRST:
        yield from map(look, shards[_FIRST:])
        return
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from threads.map(look, shards[_FIRST:])


def refuse_damaged_pairs(layout: RunLayout, fingerprint: str, shards: Sequence[str]) -> None:
    """Raises UserError where published shards have lost a file, or have one that is not theirs."""

    def problem_of(shard: str) -> str | None:
        try:
            check_pair(layout, shard, fingerprint)
        except UserError as error:
            return str(error)
        return None

    problems = [problem for problem in look_at(shards, problem_of) if problem]
    if len(problems) > 1:
        raise UserError(f"{counted(len(problems), 'done shard')} of {layout.root} are damaged: {problems[0]}")
    if problems:
        raise UserError(problems[0])


class RunFooters:
    """The checked footers of a run's shards. Every method raises UserError naming the file that is not right."""

    def __init__(self, layout: RunLayout, fingerprint: str) -> None:
        self._layout, self._fingerprint = layout, fingerprint
        self._known: dict[str, ShardFooter] = {}
        self._opened: set[str] = set()  # shards whose HDF5 file was compared with the footer
        self._opened_added: set[tuple[str, int]] = set()

    def of(self, shard: str) -> ShardFooter:
        """The footer of a published shard."""
        if shard not in self._known:
            self._known[shard] = self._read(shard)
        return self._known[shard]

    def all_of(self, shards: Iterable[str]) -> list[ShardFooter]:
        """The footers of published shards, in their order."""
        names = list(shards)
        missing = [name for name in names if name not in self._known]
        self._known.update(zip(missing, look_at(missing, self._read), strict=True))
        return [self._known[name] for name in names]

    def forget(self, shards: Iterable[str]) -> None:
        """Reads the footers of these shards again when they are needed: their files have changed."""
        for shard in shards:
            self._known.pop(shard, None)
            self._opened.discard(shard)
            self._opened_added = {one for one in self._opened_added if one[0] != shard}

    def open_added(self, shard: str, number: int, *, cache: int | None = None) -> h5py.File:
        """Opens the HDF5 file of an addition, at the first time with all checks.

        Raises UserError also where the shard does not have the maps of this addition.
        """
        if (shard, number) in self._opened_added:
            return open_file(self._layout, shard, cache=cache, number=number)
        self._known[shard] = footer = check_pair(self._layout, shard, self._fingerprint, self._known.get(shard))
        added = footer.added_file(number)
        if added is None:
            self._known[shard] = footer = self._read(shard)  # it may have got them since
            added = footer.added_file(number)
        if added is None:
            raise UserError(
                f"{self._layout.shard_added(shard, number)}: these maps were not added to the shard {shard!r} yet; "
                "give the command with --add-maps again"
            )
        file = open_added(self._layout, shard, footer, added, cache=cache)
        self._opened_added.add((shard, number))
        return file

    def open_maps(self, shard: str, *, cache: int | None = None) -> h5py.File:
        """Opens a shard's HDF5 file, at the first time with all checks. `cache` is that of chunks, in bytes."""
        if shard in self._opened:
            return open_file(self._layout, shard, cache=cache)
        self._known[shard] = check_pair(self._layout, shard, self._fingerprint, self._known.get(shard))
        file = open_maps(self._layout, shard, self._known[shard], cache=cache)
        self._opened.add(shard)
        return file

    def _read(self, shard: str) -> ShardFooter:
        path = self._layout.shard_metadata(shard)
        footer = read_facts(path)
        check_metadata(path, shard, self._fingerprint, footer)
        return footer
