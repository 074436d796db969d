"""A run's maps read slice by slice, in order of shards and rows (no torch)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from jobs.arrays import Float32Array
from jobs.errors import UserError
from jobs.phrases import counted
from jobs.runs.heads.rows import MapRows, map_rows
from jobs.runs.run import Run
from jobs.statistics.chosen import ChosenImages

_READ = 2 << 20  # bytes in one call of HDF5, which stay in a processor's cache: 4096 of 16x8 maps


def chosen_maps(chosen: ChosenImages, name: str) -> Iterator[tuple[slice, Float32Array]]:
    """(place among the chosen images, maps (n, h, w)) of all chosen images; the caller may keep or change them.

    Raises UserError naming what is missing, or a shard whose maps are of another size.
    """
    grid = None
    for shard, span in chosen.spans():
        for at, maps in read_slices(chosen.run, name, shard, chosen.rows[span]):
            grid = grid or maps.shape[1:]
            if maps.shape[1:] != grid:
                raise UserError(f"{shard}: {name} is {maps.shape[1:]}, elsewhere {grid}: not one run's maps")
            yield slice(span.start + at.start, span.start + at.stop), maps


def grid_of(chosen: ChosenImages, name: str) -> tuple[int, int]:
    """(h, w) of a map in the first shard of which an image is chosen; (0, 0) without one."""
    for shard, span in chosen.spans():
        with _opened(chosen.run, name, shard, chosen.rows[span]) as dataset:
            return int(dataset.shape[1]), int(dataset.shape[2])
    return 0, 0


def read_slices(run: Run, name: str, shard: str, rows: NDArray[np.integer]) -> Iterator[tuple[slice, Float32Array]]:
    """(positions in `rows`, their maps (n, h, w)) for rising h5 rows; the caller may keep or change them.

    Values below zero, as a cosine has them, are 0: they have no mass, as in `cam.measures`. Whole slices of chunks are
    read. Raises UserError naming what is missing.
    """
    with _opened(run, name, shard, rows) as dataset:
        row = 4 * int(np.prod(dataset.shape[1:]))
        step = max(1, _READ // row // dataset.chunks[0]) * dataset.chunks[0]
        for start in range(int(rows[0]) // step * step, int(rows[-1]) + 1, step):
            stop = min(start + step, len(dataset))
            first, last = (int(i) for i in np.searchsorted(rows, [start, stop]))
            if first == last:
                continue
            buffer = np.asarray(dataset[start:stop], np.float32)
            if buffer.view(np.int32).min() < 0:  # the sign bit of a float; a comparison would fill an array of booleans
                np.maximum(buffer, 0, out=buffer)
            yield slice(first, last), buffer if last - first == stop - start else buffer[rows[first:last] - start]


@contextmanager
def _opened(run: Run, name: str, shard: str, rows: NDArray[np.integer]) -> Iterator[MapRows]:
    """The dataset of a map; raises UserError if it, or one of the rising rows, is not there."""
    path = run.maps_path(name, shard)
    # Each chunk is read once: no cache of them.
    with run.open_maps(shard, cache=0, addition=run.manifest.addition_of(name)) as file:
        try:
            dataset = map_rows(file, name)
        except KeyError as error:
            raise UserError(f"{path} has no map {name!r}") from error
        if int(rows[-1]) >= len(dataset):
            raise UserError(
                f"{path}: {name} has {counted(len(dataset), 'row')}, but the metadata name row {int(rows[-1])}"
            )
        yield dataset
