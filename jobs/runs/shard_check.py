"""Checks one published shard: its Parquet file, its HDF5 file, and that the two agree.

Legend: N rows of the metadata, M of them with maps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cam.names import MapName, column_of
from jobs.arrays import BoolArray, Int64Array
from jobs.atomic import sha256_of
from jobs.errors import UserError
from jobs.phrases import counted
from jobs.runs.footer import AddedFile, ShardFooter
from jobs.runs.growth.run_json import grown_manifest
from jobs.runs.integrity.belonging import added_problem, identity_problem
from jobs.runs.integrity.seal import seal_problem
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.maps_file import FEATURES, HDF5_ERRORS, HEADS, KEY, MAPS, stored
from jobs.shards.samples import KEPT, NOT_FINITE, OK
from jobs.system_errors import cause_of

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True)
class CheckedShard:
    """The number of rows of the metadata, 0 where it cannot be read, and what is wrong with the shard.

    `another_run` is the fingerprint of the run that made it, where that is not the run that it lies in.
    """

    name: str
    rows: int
    problems: tuple[str, ...]
    another_run: str | None = None

    @property
    def is_intact(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems and self.another_run is None


def check_shard(name: str, layout: RunLayout, manifest: Manifest) -> CheckedShard:
    """Reads both files of a shard whole and compares them with what was written."""
    path = layout.shard_metadata(name)
    try:
        # A run that keeps a hash of its run.json was started by a version that seals every shard.
        if problem := seal_problem(path, required=manifest.sha256 is not None):
            return CheckedShard(name=name, rows=0, problems=(f"{name}: {problem}",))
        table = pq.read_table(path, page_checksum_verification=True)
        footer = ShardFooter.from_metadata(table.schema.metadata, len(table))
    except (*HDF5_ERRORS, UserError) as error:  # pyarrow raises OSError and ValueError
        return CheckedShard(name=name, rows=0, problems=(f"{name}: unreadable: {path}: {cause_of(error)}",))
    try:
        problems = [f"{name}: {problem}" for problem in _problems(name, table, footer, layout, manifest)]
    except HDF5_ERRORS as error:
        problems = [f"{name}: unreadable: {layout.shard_maps(name)}: {cause_of(error)}"]
    another = None if footer.fingerprint == manifest.fingerprint else footer.fingerprint
    return CheckedShard(name=name, rows=len(table), problems=tuple(problems), another_run=another)


def _problems(name: str, table: pa.Table, footer: ShardFooter, layout: RunLayout, manifest: Manifest) -> Iterator[str]:
    maps = layout.shard_maps(name)
    numbers = [file.number for file in footer.added]
    manifest = grown_manifest(layout, manifest, numbers)  # they may have been added since it was read
    if unknown := sorted(set(numbers) - manifest.numbered_additions.keys()):
        yield f"it has maps of an addition {unknown[0]}, which run.json does not have"
        return
    if not table.schema.equals(manifest.columns_with(numbers)):
        yield f"{layout.shard_metadata(name).name} has other columns than the run"
        return
    if footer.shard != name:
        yield f"holds the shard {footer.shard!r} by its footer"
    if damage := _damage(maps, footer.h5_size, footer.h5_sha256):
        yield damage
        return
    rows = _Rows.of(table)
    yield from _row_problems(name, rows, footer)
    with h5py.File(maps, "r", locking=False) as file:
        if (footer.shard, footer.fingerprint) == (name, manifest.fingerprint):
            problem = identity_problem(file, name, footer)
            yield from [] if problem is None else [f"{maps.name} {problem}"]
        yield from _maps_problems(file, rows, manifest, footer)
    for added in footer.added:
        yield from _added_problems(added, table, rows, layout, manifest, footer)


def _added_problems(
    added: AddedFile, table: pa.Table, rows: _Rows, layout: RunLayout, manifest: Manifest, footer: ShardFooter
) -> Iterator[str]:
    """What is wrong with the file of maps that were added later."""
    path = layout.shard_added(footer.shard, added.number)
    if damage := _damage(path, added.h5_size, added.h5_sha256):
        yield f"{path.parent.name}: {damage}"
        return
    maps = manifest.numbered_additions[added.number]
    # A map is there exactly where its measures are.
    with_maps = table.filter(pa.array(rows.has_maps))
    has_map = {name: with_maps[f"{column_of(name)}_max"].is_valid().to_numpy() for name in maps}
    if len(rows.h5_row) and (problem := _missing_problem(has_map, rows, added)):
        yield problem
    with h5py.File(path, "r", locking=False) as file:
        if problem := added_problem(file, footer.shard, footer, added.number):
            yield f"{path.parent.name}/{path.name} {problem}"
            return
        if [key.decode() for key in stored(file, KEY)[:]] != rows.keys_with_maps:
            yield f"the keys of {path.parent.name}/{path.name} and the metadata differ"
        for name in maps if rows.keys_with_maps else ():
            if problem := _value_problem(file, f"{MAPS}/{name}", has_map[name], footer.zero_maps.get(name)):
                yield f"{path.parent.name}/{path.name}: {problem}"


def _missing_problem(has_map: Mapping[str, BoolArray], rows: _Rows, added: AddedFile) -> str | None:
    """How many rows lack added maps, where it is another number than the footer counts."""
    whole = rows.whole[rows.has_maps]
    lacking = np.zeros(len(whole), bool)
    for name, there in has_map.items():  # a row without a target rightly has no maps of the target
        lacking |= ~there & (whole if MapName.parse(name).needs_target else True)
    number, known = int(lacking.sum()), sum(added.failed.values())
    if number <= known:
        return None
    return f"{counted(number, 'row lacks', 'rows lack')} added maps, the footer counts {known}"


def _damage(maps: Path, written: int, sha256: str) -> str | None:
    """How the HDF5 file differs from the one that was written; None where it is the same."""
    if not maps.exists():
        return f"{maps} is gone"
    size = maps.stat().st_size
    if size != written:
        return f"{maps.name} has {size} bytes, {written} were written"
    if sha256_of(maps) != sha256:
        return f"{maps.name} has other bytes than were written (SHA-256 differs)"
    return None


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows of the metadata, in tar order.

    shard (N,) and key (N,): texts. tar_index (N,) int64. h5_row (M,) int64: the rows that have one. has_maps (N,) bool:
    whether a row has one. kept (N,) bool: whether the status is one of a row with maps. whole (N,) bool: whether the
    status is that of a row with all maps. statuses: the number of rows by status.
    """

    shard: list[str]
    key: list[str]
    tar_index: Int64Array
    h5_row: Int64Array
    has_maps: BoolArray
    kept: BoolArray
    whole: BoolArray
    statuses: Mapping[str, int]

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
            statuses=Counter(status.to_pylist()),
        )

    @property
    def keys_with_maps(self) -> list[str]:
        """The keys of the rows that have maps."""
        return [key for key, has_maps in zip(self.key, self.has_maps.tolist(), strict=True) if has_maps]


def _row_problems(name: str, rows: _Rows, footer: ShardFooter) -> Iterator[str]:
    with_maps, without_maps = len(rows.h5_row), len(rows.key) - len(rows.h5_row)
    if not _counts_from_zero(rows.h5_row):
        yield "h5_row does not rise from 0 without a gap"
    if not _counts_from_zero(rows.tar_index):
        yield "tar_index does not rise from 0 without a gap"
    if with_maps != footer.images:
        yield f"{counted(with_maps, 'row has', 'rows have')} maps, the footer counts {footer.images}"
    if wrong := np.count_nonzero(rows.kept != rows.has_maps):
        yield f"{counted(int(wrong), 'row has', 'rows have')} a status and an h5_row that contradict each other"
    if without_maps != sum(footer.failed.values()):
        yield f"{counted(without_maps, 'row')} failed, the footer counts {sum(footer.failed.values())}"
    else:
        failed = {status: count for status, count in rows.statuses.items() if status not in KEPT}
        if not wrong and failed != footer.failed:
            yield f"its rows failed as {failed}, the footer counts {footer.failed}"
    partial = {status: count for status, count in rows.statuses.items() if status in KEPT and status != OK}
    if partial != footer.partial:
        yield f"its rows lack a target as {partial}, the footer counts {footer.partial}"
    if any(shard != name for shard in rows.shard):
        yield "has rows of another shard"
    if footer.keys is not None and rows.key and footer.keys != (bounds := (min(rows.key), max(rows.key))):
        yield f"its smallest and largest keys are {bounds}, the footer says {footer.keys}"


def _counts_from_zero(numbers: Int64Array) -> bool:
    return np.array_equal(numbers, np.arange(len(numbers)))


def _maps_problems(file: h5py.File, rows: _Rows, manifest: Manifest, footer: ShardFooter) -> Iterator[str]:
    """Compares keys and values. Reading them also compares each chunk with its checksum."""
    keys = rows.keys_with_maps
    if [key.decode() for key in stored(file, KEY)[:]] != keys:
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
    zeros = _zero_maps(manifest, footer)
    for dataset, expected in finite.items():
        if problem := _value_problem(file, dataset, expected, zeros.get(dataset)):
            yield problem


def _zero_maps(manifest: Manifest, footer: ShardFooter) -> dict[str, int]:
    """Dataset -> how many of its maps must be all zero.

    Earlier versions also counted maps of rows that they then did not keep: where there are such rows, nothing is known.
    """
    if manifest.sha256 is None and NOT_FINITE in footer.failed:
        return {}
    return {f"{MAPS}/{name}": count for name, count in footer.zero_maps.items()}


def _value_problem(file: h5py.File, dataset: str, finite: BoolArray, zeros: int | None) -> str | None:
    """What is wrong with a dataset (M, ...), whose rows must be finite exactly where `finite` (M,) says so.

    `zeros` is the number of its rows that must be zero everywhere, None where that is not known.
    """
    values, found = stored(file, dataset), 0
    if len(values) != len(finite):
        return f"{dataset} has {counted(len(values), 'row')} instead of {len(finite)}"
    for start in range(0, len(finite), _ROWS_AT_A_TIME):
        expected = finite[start : start + _ROWS_AT_A_TIME]
        part = values[start : start + _ROWS_AT_A_TIME].reshape(len(expected), -1)
        if not np.array_equal(np.isfinite(part).all(axis=1), expected):
            return f"{dataset} has non-finite values, or maps in rows without a target"
        found += int((part.max(axis=1, initial=0) == 0).sum())
    if zeros in (None, found):
        return None
    return f"{dataset} has {counted(found, 'all-zero map')}, the footer counts {zeros}"
