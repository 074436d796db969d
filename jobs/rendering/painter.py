"""Drawing the pictures that `promptsg render` planned, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cam.overlay import Map
from jobs.arrays import Float32Array
from jobs.progress import LongTask
from jobs.rendering.chunks import Chunk
from jobs.rendering.drawing.entry import Entry, ImageRow
from jobs.rendering.drawing.job import LeftOut, PictureJob
from jobs.rendering.drawing.picture import draw_picture
from jobs.rendering.drawing.style import OtherRun, PictureStyle
from jobs.rendering.image_files import decode_row, encode, fits, sized, write_picture
from jobs.rendering.processes import in_processes
from jobs.rendering.two_runs import rows_in_both
from jobs.runs.run import Run, open_run
from jobs.shards.random_access import SourceImages


@dataclass(frozen=True)
class Drawn:
    """How many pictures were written, and the maps that could not be shown."""

    written: int
    left_out: list[LeftOut]


@dataclass(frozen=True, kw_only=True)
class Painter:
    """Draws chunks, in any process. `root` is the run's folder, `form` the kind of image file."""

    root: Path
    output: Path
    style: PictureStyle
    form: str

    def draw(self, chunk: Chunk) -> Drawn:
        """Writes the chunk's pictures.

        A picture is not written if none of its maps can be shown, or if it is too long for its format.
        """
        images = _ChunkImages(open_run(self.root), chunk, self.style)
        written, left_out = 0, []
        for job in chunk.jobs:
            entries = [images.entry(row) for row in job.rows]
            absent, count = self._absent(job, entries)
            left_out += absent
            if len(absent) == count:
                continue
            picture = draw_picture(job, entries, self.style)
            if fits(picture, self.form):
                write_picture(self.output / job.name, encode(picture, self.form))
                written += 1
            else:
                size = f"{picture.shape[1]}x{picture.shape[0]}"
                why = f"{size} pixels do not fit into a {self.form} file; give --format png, or a --size"
                left_out.append(LeftOut(entries[0].row["key"], why))
        return Drawn(written, left_out)

    def _absent(self, job: PictureJob, entries: list[Entry]) -> tuple[list[LeftOut], int]:
        """The maps of a picture that are not finite, and how many maps it would show."""
        shown = self.style.maps if job.map is None else (job.map,)
        absent = [
            LeftOut(entry.row["key"], f"{name} is not finite")
            for entry in entries
            for name in shown
            if name not in entry.maps
        ]
        return absent, len(entries) * len(shown)


class _ChunkImages:
    """The images and maps of a chunk's rows; the last image stays decoded, since its maps follow each other."""

    def __init__(self, run: Run, chunk: Chunk, style: PictureStyle) -> None:
        self._chunk = chunk
        self._size = style.size
        self._maps = {name: run.maps_of(name, chunk.rows) for name in style.maps}
        self._others = {} if style.other is None else _maps_in(style.other, chunk.rows, style.maps)
        with SourceImages(dict(chunk.sources)) as images:
            self._data = list(images.read(chunk.rows))
        self._last: tuple[int, Entry] | None = None

    def entry(self, number: int) -> Entry:
        """One row, ready to be drawn. Raises UserError naming the shard if its image is not what was mined."""
        if self._last is None or self._last[0] != number:
            row = self._chunk.rows[number]
            pixels = decode_row(self._chunk.sources[row["shard"]], row, self._data[number])
            self._last = (
                number,
                Entry(
                    row=row,
                    image=sized(pixels, self._size),
                    maps=_finite(self._maps, number),
                    others=_finite(self._others, number),
                ),
            )
        return self._last[1]


def _finite(maps: Mapping[str, Float32Array], number: int) -> dict[str, Map]:
    return {name: values[number] for name, values in maps.items() if np.isfinite(values[number]).all()}


def _maps_in(other: OtherRun, rows: Sequence[ImageRow], maps: Sequence[str]) -> dict[str, Float32Array]:
    """The maps of another run, by name, of rows of which the plan found it to have maps."""
    run = open_run(other.root)
    shown = pa.table({"shard": [row["shard"] for row in rows], "key": [row["key"] for row in rows]})
    _, found = rows_in_both(shown, run)
    return {name: run.maps_of(name, found) for name in maps}


def draw_all(painter: Painter, chunks: Iterable[Chunk], total: int, workers: int) -> Drawn:
    """Draws all chunks, `total` pictures, in so many processes."""
    written, left_out = 0, []
    with LongTask("drawing", total, "picture") as task:
        for chunk, drawn in in_processes(painter.draw, chunks, workers):
            written += drawn.written
            left_out += drawn.left_out
            task.advance(len(chunk.jobs))
    return Drawn(written, left_out)
