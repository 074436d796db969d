"""Checks one published shard: its Parquet file, its HDF5 file, and that the two agree.

Legend: N rows of the metadata, M of them with maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cam.names import MapName
from jobs.arrays import BoolArray, Int64Array
from jobs.atomic import sha256_of
from jobs.phrases import one_line
from jobs.runs.footer import ShardFooter
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.maps_file import FEATURES, HEADS, KEY, MAPS
from jobs.shards.samples import KEPT, OK

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True)
class CheckedShard:
    """The number of rows of the metadata, 0 where it cannot be read, and what is wrong with the shard."""

    rows: int
    problems: tuple[str, ...]


def check_shard(name: str, layout: RunLayout, manifest: Manifest) -> CheckedShard:
    """Reads both files of a shard whole and compares them with what was written."""
    try:
        table = pq.read_table(layout.shard_metadata(name), page_checksum_verification=True)
        problems = [f"{name}: {problem}" for problem in _problems(name, table, layout, manifest)]
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # what h5py and pyarrow raise on damaged files
        return CheckedShard(rows=0, problems=(f"{name}: unreadable: {one_line(error)}",))
    return CheckedShard(rows=len(table), problems=tuple(problems))


def _problems(name: str, table: pa.Table, layout: RunLayout, manifest: Manifest) -> Iterator[str]:
    maps = layout.shard_maps(name)
    if not table.schema.equals(manifest.columns):
        yield f"{layout.shard_metadata(name).name} has other columns than the run"
        return
    footer = ShardFooter.from_metadata(table.schema.metadata, len(table))
    if footer.fingerprint != manifest.fingerprint:
        yield f"was made by another run (fingerprint {footer.fingerprint})"
    if damage := _damage(maps, footer):
        yield damage
        return
    rows = _Rows.of(table)
    yield from _row_problems(name, rows, footer)
    with h5py.File(maps, "r", locking=False) as file:
        yield from _maps_problems(file, rows, manifest)


def _damage(maps: Path, footer: ShardFooter) -> str | None:
    """How the HDF5 file differs from the one that was written; None where it is the same."""
    if not maps.exists():
        return f"{maps} is gone"
    size = maps.stat().st_size
    if size != footer.h5_size:
        return f"{maps.name} has {size} bytes, {footer.h5_size} were written"
    if sha256_of(maps) != footer.h5_sha256:
        return f"{maps.name} has other bytes than were written (SHA-256 differs)"
    return None


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows of the metadata, in tar order.

    shard (N,) and key (N,): texts. tar_index (N,) int64. h5_row (M,) int64: the rows that have one. has_maps (N,) bool:
    whether a row has one. kept (N,) bool: whether the status is one of a row with maps. whole (N,) bool: whether the
    status is that of a row with all maps.
    """

    shard: list[str]
    key: list[str]
    tar_index: Int64Array
    h5_row: Int64Array
    has_maps: BoolArray
    kept: BoolArray
    whole: BoolArray

    @classmethod
    def of(cls, table: pa.Table) -> _Rows:
        status = table["status"]
        return cls(
            shard=table["shard"].to_pylist(),
            key=table["key"].to_pylist(),
            tar_index=table["tar_index"].to_numpy(),
            h5_row=table["h5_row"].drop_null().to_numpy(),
            has_maps=table["h5_row"].is_valid().to_numpy(),
            kept=pc.is_in(status, pa.array(sorted(KEPT))).to_numpy(),
            whole=pc.equal(status, OK).to_numpy(),
        )


def _row_problems(name: str, rows: _Rows, footer: ShardFooter) -> Iterator[str]:
    with_maps, without_maps = len(rows.h5_row), len(rows.key) - len(rows.h5_row)
    if not _counts_from_zero(rows.h5_row):
        yield "h5_row does not rise from 0 without a gap"
    if not _counts_from_zero(rows.tar_index):
        yield "tar_index does not rise from 0 without a gap"
    if with_maps != footer.images:
        yield f"{with_maps} rows have maps, the footer counts {footer.images}"
    if wrong := np.count_nonzero(rows.kept != rows.has_maps):
        yield f"{wrong} rows have a status and an h5_row that contradict each other"
    if without_maps != sum(footer.failed.values()):
        yield f"{without_maps} rows failed, the footer counts {sum(footer.failed.values())}"
    if any(shard != name for shard in rows.shard):
        yield "has rows of another shard"


def _counts_from_zero(numbers: Int64Array) -> bool:
    return np.array_equal(numbers, np.arange(len(numbers)))


def _maps_problems(file: h5py.File, rows: _Rows, manifest: Manifest) -> Iterator[str]:
    """Compares keys and values. Reading them also compares each chunk with its checksum."""
    keys = [key for key, has_maps in zip(rows.key, rows.has_maps.tolist(), strict=True) if has_maps]
    if [key.decode() for key in file[KEY][:]] != keys:
        yield "the keys of maps and metadata differ"
    if not keys:
        return
    always = np.ones(len(keys), bool)
    whole = rows.whole[rows.has_maps]
    finite = {FEATURES: always}
    if manifest.has_heads:
        finite[f"{MAPS}/{HEADS}"] = always
    for name in manifest.maps:
        finite[f"{MAPS}/{name}"] = whole if MapName.parse(name).needs_target else always
    for dataset, expected in finite.items():
        if problem := _value_problem(file, dataset, expected):
            yield problem


def _value_problem(file: h5py.File, dataset: str, finite: BoolArray) -> str | None:
    """What is wrong with a dataset (M, ...), whose rows must be finite exactly where `finite` (M,) says so."""
    values = file[dataset]
    if len(values) != len(finite):
        return f"{dataset} has {len(values)} rows instead of {len(finite)}"
    for start in range(0, len(finite), _ROWS_AT_A_TIME):
        expected = finite[start : start + _ROWS_AT_A_TIME]
        part = values[start : start + _ROWS_AT_A_TIME].reshape(len(expected), -1)
        if not np.array_equal(np.isfinite(part).all(axis=1), expected):
            return f"{dataset} has non-finite values, or maps in rows without a target"
    return None
