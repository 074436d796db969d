"""The rows of one map in a shard's open HDF5 file, whether it has a dataset of its own or is one of several heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import h5py
import numpy as np

from cam.names import MapName
from jobs.arrays import Float32Array, Int64Array
from jobs.runs.maps_file import HEADS, MAPS, stored


class HeadRows:
    """One head of a dataset (N, heads, h, w), read as a dataset (N, h, w) is. Its chunks hold all heads.

    Raises ValueError where the dataset has no such head.
    """

    def __init__(self, dataset: h5py.Dataset, head: int) -> None:
        if dataset.ndim != 4 or head >= dataset.shape[1]:
            raise ValueError(f"{dataset.name} of shape {dataset.shape} has no head {head}")
        self._dataset, self._head = dataset, head
        self.shape: tuple[int, ...] = (dataset.shape[0], *dataset.shape[2:])
        self.chunks: tuple[int, ...] = (dataset.chunks[0], *dataset.chunks[2:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Sequence[int] | Int64Array) -> Float32Array:
        """(n, h, w) the head's maps of a slice, or of rising rows."""
        return np.asarray(self._dataset[rows, self._head])


MapRows: TypeAlias = h5py.Dataset | HeadRows


def map_rows(file: h5py.File, name: str) -> MapRows:
    """The rows of a map by its name. Raises KeyError where the file lacks it, and UserError as `stored`."""
    head = MapName.parse(name).head
    if head is None:
        return stored(file, f"{MAPS}/{name}")
    return HeadRows(stored(file, f"{MAPS}/{HEADS}"), head)
