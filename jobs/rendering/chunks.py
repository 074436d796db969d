"""Pictures to draw in pieces: what one process draws at once, so that it opens each file once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from jobs.rendering.drawing.entry import ImageRow, rows_of
from jobs.rendering.drawing.job import PictureJob
from jobs.shards.random_access import Source

_MOST_ROWS, _MOST_BYTES = 256, 64 << 20
_PIECES_PER_PROCESS = 4  # so that all processes end at about the same time
_LEAST_SINGLE = 16  # pictures of one image each that are worth a chunk


@dataclass(frozen=True)
class Chunk:
    """Jobs, the rows that they show, whose numbers are places in `rows`, and where these rows' shards are read."""

    rows: list[ImageRow]
    jobs: list[PictureJob]
    sources: Mapping[str, Source]


@dataclass
class _Growing:
    """A chunk while jobs are added. `numbers` maps a row of the table to its place in the chunk."""

    numbers: dict[int, int] = field(default_factory=dict)
    jobs: list[PictureJob] = field(default_factory=list)
    image_bytes: int = 0

    def add(self, job: PictureJob, image_sizes: Sequence[int]) -> None:
        self.image_bytes += sum(image_sizes[row] for row in job.rows if row not in self.numbers)
        places = tuple(self.numbers.setdefault(row, len(self.numbers)) for row in job.rows)
        self.jobs.append(replace(job, rows=places))

    def is_full(self, most_jobs: int) -> bool:
        return len(self.jobs) >= most_jobs or self.image_bytes >= _MOST_BYTES or len(self.numbers) >= _MOST_ROWS

    def chunk(self, table: pa.Table, sources: Mapping[str, Source]) -> Chunk:
        rows = rows_of(table.take(list(self.numbers)))
        return Chunk(rows, self.jobs, {shard: sources[shard] for shard in {row["shard"] for row in rows}})


def make_chunks(
    table: pa.Table, jobs: Sequence[PictureJob], sources: Mapping[str, Source], workers: int
) -> Iterator[Chunk]:
    """The jobs in pieces for the processes. Pictures of single images go by shard, others a few at a time."""
    if all(len(job.rows) == 1 for job in jobs):
        return _by_shard(table, jobs, sources, max(_LEAST_SINGLE, _share(jobs, workers)))
    return _in_order(table, jobs, sources, max(1, _share(jobs, workers)))


def _share(jobs: Sequence[PictureJob], workers: int) -> int:
    return min(_MOST_ROWS, len(jobs) // (_PIECES_PER_PROCESS * workers))


def _by_shard(table: pa.Table, jobs: Sequence[PictureJob], sources: Mapping[str, Source], most: int) -> Iterator[Chunk]:
    """Chunks of one shard each, in the order of the tar."""
    shards, places = table["shard"].to_pylist(), table["tar_index"].to_pylist()
    by_shard: dict[str, list[PictureJob]] = {}
    for job in sorted(jobs, key=lambda job: (shards[job.rows[0]], places[job.rows[0]])):
        by_shard.setdefault(shards[job.rows[0]], []).append(job)
    for there in by_shard.values():
        yield from _in_order(table, there, sources, most)


def _in_order(table: pa.Table, jobs: Sequence[PictureJob], sources: Mapping[str, Source], most: int) -> Iterator[Chunk]:
    """Chunks of at most so many jobs, and of a limited number of images and bytes."""
    sizes = table["image_size"].to_pylist()
    growing = _Growing()
    for job in jobs:
        if growing.jobs and growing.is_full(most):
            yield growing.chunk(table, sources)
            growing = _Growing()
        growing.add(job, sizes)
    if growing.jobs:
        yield growing.chunk(table, sources)
