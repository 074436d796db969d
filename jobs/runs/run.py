"""Reading a run: metadata as a pyarrow dataset, maps and features by name and row (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from jobs.arrays import Float32Array
from jobs.errors import UserError
from jobs.phrases import did_you_mean
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, read_manifest
from jobs.runs.maps_file import FEATURES, HEADS, KEY, MAPS

_DENSE = 8  # rows to a wanted one, up to which a slice is faster


class Run:
    """A run on disk, finished or still growing; only published shards are seen."""

    def __init__(self, root: Path) -> None:
        self.layout = RunLayout(root)
        self.manifest: Manifest = read_manifest(self.layout)
        self._last: tuple[list[tuple[str, int, int]], ds.Dataset] | None = None

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the stored maps."""
        return self.manifest.maps

    @property
    def schema(self) -> pa.Schema:
        """The columns of the metadata."""
        return self.manifest.columns

    def metadata(self, shards: Iterable[str] | None = None) -> ds.Dataset:
        """One row per sample of every published shard, failures included, as a pyarrow dataset; or of these shards.

        Shards are in order of their names and rows in tar order. While the files are the same, it is the same dataset
        as the last one, which has read their footers before.
        """
        paths = [self.layout.shard_metadata(name) for name in sorted(self.layout.done() if shards is None else shards)]
        files = [(str(path), status.st_mtime_ns, status.st_size) for path in paths if (status := path.stat())]
        if self._last is None or self._last[0] != files:
            self._last = files, ds.dataset([path for path, *_ in files], schema=self.schema, format="parquet")
        return self._last[1]

    def choose_maps(self, names: Sequence[str]) -> tuple[str, ...]:
        """The named maps, each once. Raises UserError on one that the run has not, naming the nearest and all."""
        for name in names:
            if name not in self.maps:
                hint = did_you_mean(name, self.maps) or "."
                raise UserError(f"{self.layout.root} has no map {name!r}{hint} It has {', '.join(self.maps)}")
        return tuple(dict.fromkeys(names))

    def read_maps(self, name: str, shard: str, rows: slice | Sequence[int] | None = None) -> Float32Array:
        """(N, h, w) float32 raw maps of a shard: all, a slice, or the given h5 rows in their order.

        `mim_attention_heads` gives (N, heads, h, w) where the run stored it. Maps of a target that a row lacks are NaN.

        Raises UserError naming the map or shard that is not there.
        """
        if not (name == HEADS and self.manifest.has_heads):
            self.choose_maps([name])
        return self._read(f"{MAPS}/{name}", shard, rows)

    def read_features(self, shard: str, rows: slice | Sequence[int] | None = None) -> Float32Array:
        """(N, D) float32 retrieval features of a shard, not normalised; rows as in `read_maps`."""
        return self._read(FEATURES, shard, rows)

    def read_keys(self, shard: str) -> list[str]:
        """The keys of a shard's h5 rows."""
        with self._open(shard) as file:
            return [key.decode() for key in file[KEY][:]]

    def maps_of(self, name: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> Float32Array:
        """(N, h, w) float32 maps of metadata rows (`shard` and `h5_row` of a table or of mappings), in their order.

        Raises UserError if a row has no map.
        """
        if isinstance(rows, pa.Table):
            shards, numbers = rows["shard"].to_pylist(), rows["h5_row"].to_pylist()
        else:
            shards, numbers = [row["shard"] for row in rows], [row["h5_row"] for row in rows]
        if None in numbers:
            raise UserError("a row without h5_row has no map; select status = 'ok'")
        by_shard: dict[str, list[int]] = {}
        for position, shard in enumerate(shards):
            by_shard.setdefault(shard, []).append(position)
        found: Float32Array | None = None
        for shard, positions in by_shard.items():
            maps = self.read_maps(name, shard, [numbers[position] for position in positions])
            if found is None:
                found = np.empty((len(numbers), *maps.shape[1:]), np.float32)
            found[positions] = maps
        return np.empty((0, 0, 0), np.float32) if found is None else found

    def _open(self, shard: str) -> h5py.File:
        if not self.layout.shard_metadata(shard).exists():
            raise UserError(f"the shard {shard!r} is not done in {self.layout.root}")
        # Published files never change; locks only fail on NFS and Lustre.
        return h5py.File(self.layout.shard_maps(shard), "r", locking=False)

    def _read(self, dataset: str, shard: str, rows: slice | Sequence[int] | None) -> Float32Array:
        with self._open(shard) as file:
            if dataset not in file:  # a shard without one good image has no maps
                return np.empty((0, 0, 0) if dataset != FEATURES else (0, 0), np.float32)
            if rows is None or isinstance(rows, slice):
                return np.asarray(file[dataset][rows or slice(None)])
            # h5py wants rising, distinct rows, and is slow at picking: rows that lie close are read as one slice.
            unique, inverse = np.unique(np.asarray(rows, np.int64), return_inverse=True)
            if not len(unique):
                return np.asarray(file[dataset][:0])
            first, end = int(unique[0]), int(unique[-1]) + 1
            if end - first <= _DENSE * len(unique):
                return np.asarray(file[dataset][first:end])[unique - first][inverse]
            return np.asarray(file[dataset][unique])[inverse]


def open_run(root: str | Path) -> Run:
    """Opens a run for reading. Raises UserError if the folder is not one."""
    return Run(Path(root))
