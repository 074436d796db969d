"""Drawing the pictures that `promptsg render` planned, chunk by chunk, in one process or several (no torch)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from cam.overlay import Picture
    from jobs.rendering.drawing import Entry, Hit, Style
    from jobs.shards.random_access import Source, SourceImages

_CHUNK_ROWS, _CHUNK_BYTES = 256, 64 << 20


@dataclass(frozen=True)
class Job:
    """One picture: its path below the output folder, and the rows (of a table, then of a chunk) that it shows."""

    name: str
    rows: tuple[int, ...]
    map: str | None = None
    hits: tuple[Hit, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Chunk:
    """What a process draws at once: so it opens each HDF5 file and shard once."""

    rows: list[dict[str, Any]]
    jobs: list[Job]


@dataclass
class Drawn:
    """What became of a chunk: pictures written, and (key, reason) of maps that could not be shown."""

    written: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Painter:
    """Draws chunks: all that a process needs to know besides them."""

    root: Path
    output: Path
    style: Style
    form: str
    sources: dict[str, Source]

    def draw(self, chunk: Chunk) -> Drawn:
        """Writes the chunk's pictures; one of which no map can be shown is not written."""
        import numpy as np

        from jobs.rendering.drawing import encode
        from jobs.runs.run import open_run
        from jobs.shards.random_access import SourceImages

        run = open_run(self.root)
        maps = {name: run.maps_of(name, chunk.rows) for name in self.style.maps}
        drawn = Drawn()
        with SourceImages(self.sources) as images:
            data = list(images.read(chunk.rows))

            @lru_cache(maxsize=1)  # the maps of one image follow each other
            def entry(row: int) -> Entry:
                there = {name: values[row] for name, values in maps.items() if np.isfinite(values[row]).all()}
                return self._entry(images, chunk.rows[row], data[row], there)

            for job in chunk.jobs:
                entries = [entry(row) for row in job.rows]
                shown = [job.map] if job.map else list(self.style.maps)
                absent = [(one.row["key"], f"{name} is not finite") for one in entries for name in shown
                          if name not in one.maps]  # fmt: skip
                drawn.skipped += absent
                if len(absent) == len(entries) * len(shown):
                    continue
                drawn.written += 1
                write_picture(self.output / job.name, encode(self._picture(job, entries), self.form))
        return drawn

    def _entry(self, images: SourceImages, row: Mapping[str, Any], data: bytes, maps: Mapping[str, Any]) -> Entry:
        from jobs.rendering.drawing import Entry, decode, sized
        from jobs.shards.random_access import IMAGE_ERRORS, changed, check_header

        source = images.sources[row["shard"]]
        header = check_header(source, row, data)
        try:
            pixels = decode(data, header)
        except IMAGE_ERRORS as error:
            raise changed(source, row, f"the image there does not decode ({error})") from error
        return Entry(row=row, image=sized(pixels, self.style.size), maps=maps)

    def _picture(self, job: Job, entries: Sequence[Entry]) -> Picture:
        from jobs.rendering import drawing as pictures

        if job.map is not None:
            return pictures.draw_single(entries[0], job.map, self.style)
        if self.style.kind == "panel":
            return pictures.draw_panel(entries[0], self.style)
        if self.style.kind == "ranked":
            return pictures.draw_ranked(entries[0], entries[1:], job.hits, self.style, job.note)
        draw = pictures.draw_sheet if self.style.kind == "sheet" else pictures.draw_identity
        return draw(entries, self.style)


def make_chunks(table: pa.Table, jobs: Sequence[Job], workers: int) -> Iterator[Chunk]:
    """The jobs in pieces for the processes: pictures of single images by shard, others a few at a time."""
    single = all(len(job.rows) == 1 for job in jobs)
    shards, places = table["shard"].to_pylist(), table["tar_index"].to_pylist()
    if single:
        jobs = sorted(jobs, key=lambda job: (shards[job.rows[0]], places[job.rows[0]]))
    sizes = table["image_size"].to_pylist()
    most = max(16 if single else 1, min(_CHUNK_ROWS, len(jobs) // (4 * workers)))
    rows: dict[int, int] = {}
    taken: list[Job] = []
    held, shard = 0, ""
    for job in jobs:
        new_shard = single and shards[job.rows[0]] != shard
        if taken and (new_shard or len(taken) >= most or held >= _CHUNK_BYTES or len(rows) >= _CHUNK_ROWS):
            yield _chunk(table, rows, taken)
            rows, taken, held = {}, [], 0
        shard = shards[job.rows[0]]
        held += sum(sizes[row] for row in job.rows if row not in rows)
        numbers = tuple(rows.setdefault(row, len(rows)) for row in job.rows)
        taken.append(replace(job, rows=numbers))
    if taken:
        yield _chunk(table, rows, taken)


def _chunk(table: pa.Table, rows: Mapping[int, int], jobs: list[Job]) -> Chunk:
    return Chunk(table.take(list(rows)).to_pylist(), jobs)


def draw_all(painter: Painter, chunks: Iterable[Chunk], total: int, workers: int) -> tuple[int, list[tuple[str, str]]]:
    """Draws all chunks; returns the pictures written and what could not be shown."""
    from tqdm import tqdm

    written, skipped = 0, []
    one_by_one = ((chunk, painter.draw(chunk)) for chunk in chunks)
    with tqdm(total=total, unit=" pictures", dynamic_ncols=True, disable=None) as bar:
        for chunk, drawn in one_by_one if workers == 1 else _in_processes(painter, chunks, workers):
            written += drawn.written
            skipped += drawn.skipped
            bar.update(len(chunk.jobs))
    return written, skipped


def _in_processes(painter: Painter, chunks: Iterable[Chunk], workers: int) -> Iterator[tuple[Chunk, Drawn]]:
    """Each chunk with what became of it, as they are done; a few wait for each process, never all."""
    import multiprocessing

    # Not forked: threads of Arrow and DuckDB are running.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(painter,)) as pool:
        waiting: dict[Future[Drawn], Chunk] = {}
        try:
            for chunk in chunks:
                waiting[pool.submit(_draw_in_worker, chunk)] = chunk
                while len(waiting) >= 3 * workers:
                    yield from _finished(waiting)
            while waiting:
                yield from _finished(waiting)
        except BrokenProcessPool as error:
            raise UserError("a drawing process died, perhaps for want of memory; try fewer --workers") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _finished(waiting: dict[Future[Drawn], Chunk]) -> Iterator[tuple[Chunk, Drawn]]:
    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
        yield waiting.pop(future), future.result()


_painter: Painter | None = None


def _start_worker(painter: Painter) -> None:
    """Runs once in each process: one thread, no Ctrl-C of its own, and no life without its parent."""
    import signal
    import threading

    import cv2

    global _painter
    _painter = painter
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    import multiprocessing
    from multiprocessing.connection import wait as wait_for

    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _draw_in_worker(chunk: Chunk) -> Drawn:
    assert _painter is not None
    return _painter.draw(chunk)


def write_picture(path: Path, data: bytes) -> None:
    """Writes a file under its final name, whole or not at all; its temporary file is locked as `jobs.atomic` does it.

    Not forced to the disk, which would take longer than drawing: where a crash of the machine leaves an empty file, the
    next command draws the picture again.
    """
    from jobs.atomic import TEMPORARY

    temporary = f"{path.parent}/.{_attempt()}.{next(_numbers)}{TEMPORARY}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


_numbers = itertools.count()


@lru_cache(maxsize=1)
def _attempt() -> str:
    """What no other process calls its temporary files, on this host or another."""
    return f"{os.uname().nodename[:24]}.{os.getpid()}.{secrets.token_hex(4)}"
