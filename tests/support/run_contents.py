"""What a run holds: all rows of the metadata, and all arrays to the byte, whichever file holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import h5py
import pyarrow.parquet as pq


class RunContents(NamedTuple):
    """The rows by shard, with every column; the shape and bytes of each array by shard and name."""

    rows: dict[str, list[dict[str, Any]]]
    arrays: dict[str, dict[str, tuple[tuple[int, ...], bytes]]]


def contents_of(root: Path) -> RunContents:
    """Those of a run. The arrays of maps that were added later count as those of their shard."""
    rows = {path.stem: pq.read_table(path).to_pylist() for path in sorted((root / "metadata").glob("*.parquet"))}
    arrays: dict[str, dict[str, tuple[tuple[int, ...], bytes]]] = {}
    for path in sorted(root.glob("maps*/*.h5")):
        found = arrays.setdefault(path.stem, {})
        with h5py.File(path, "r") as file:
            file.visititems(lambda name, item, found=found: _keep(found, name, item))
    return RunContents(rows, arrays)


def _keep(found: dict[str, tuple[tuple[int, ...], bytes]], name: str, item: object) -> None:
    if isinstance(item, h5py.Dataset):
        value = item[:].astype("f4") if item.dtype.kind == "f" else item[:].astype(bytes)
        assert found.setdefault(name, (item.shape, value.tobytes())) == (item.shape, value.tobytes()), name
