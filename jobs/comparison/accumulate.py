"""One streaming pass over the maps of two runs: each pair's measures go to a table, their sums stay (no torch).

One thread joins the images of the next shard, one reads, some measure, and one adds up and writes, slice by slice in
the order of shards and rows. None of them waits at the end of a shard.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cam.names import column_of
from jobs.arrays import Float64Array, Int8Array, Int32Array
from jobs.atomic import StagedFile
from jobs.comparison.measures import MEASURES, MOVED, add_pairs, add_values, compare_maps, shifts
from jobs.comparison.paired_maps import OF_EACH, PairSlice, pair_slices
from jobs.comparison.pairing import Pairing, ShardPairs
from jobs.comparison.sums import ChangedImage, MapPairSums, PairedSums, QueryChange
from jobs.processes import available_cores
from jobs.progress import LongTask
from jobs.runs.heads.names import without_heads
from jobs.statistics.chosen import ChosenImages
from jobs.statistics.loops import NOT_FINITE, ZERO
from jobs.statistics.prefetch import in_threads, prefetched
from jobs.tables import float32_column

_AHEAD = 2  # slices that wait to be measured
_MOST_THREADS = 4  # that measure; more would wait for the disk

_ImageId = tuple[str, str]


def stored_columns(maps: Collection[str]) -> list[str]:
    """The columns of both runs' metadata that the measures need."""
    return [f"{column_of(name)}_{measure}" for name in without_heads(maps) for measure in OF_EACH]


def table_schema(maps: Collection[str]) -> pa.Schema:
    """The columns of diff.parquet: shard, key, and each map's measures."""
    measures = [pa.field(f"{column_of(name)}_{measure}", pa.float32()) for name in maps for measure in MEASURES]
    names = [pa.field(name, pa.string(), nullable=False) for name in ("shard", "key")]
    return pa.schema([*names, *measures])


def accumulate_pairs(
    chosen: ChosenImages, pairing: Pairing, table: Path, queries: Mapping[str, Collection[str]], most: int
) -> PairedSums:
    """One pass over all pairs of the chosen images, shard by shard; writes `table` (diff.parquet).

    queries: shard -> keys of images whose measures are kept. most: how many changed images are kept.
    """
    total = _Growing(chosen, most)
    with StagedFile(table) as staged:
        schema = table_schema(chosen.question.maps)
        with pq.ParquetWriter(staged.file, schema, compression="zstd", use_dictionary=["shard"]) as writer:
            read = prefetched(pair_slices(chosen, pairing), _AHEAD)
            measured = in_threads(_measured, read, min(_MOST_THREADS, available_cores()))
            for one in _counted(measured, len(chosen.rows) * len(chosen.question.maps)):
                if (rows := total.add(one, frozenset(queries.get(one.of.pairs.shard, ())))) is not None:
                    writer.write_table(rows)
        if total.pairs:  # without a pair there is nothing to say
            staged.sync()
            staged.publish()
    return total.finish()


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What the pairs of a slice measure (k, V), and whether each map is good (k,)."""

    of: PairSlice
    values: Float64Array
    state_a: Int8Array
    state_b: Int8Array


def _counted(slices: Iterator[_Measured], most: int) -> Iterator[_Measured]:
    """The slices, each counted with its pairs, of which there are `most` if all images are in both runs."""
    with LongTask("comparing maps", most, "map") as task:
        for one in slices:
            yield one
            task.advance(len(one.values))


def _measured(one: PairSlice) -> _Measured:
    found, state_a, state_b = compare_maps(np.ascontiguousarray(one.a), np.ascontiguousarray(one.b))
    measured = ((one.measures_a, one.pairs.table_a), (one.measures_b, one.pairs.table_b))
    stored = shifts(*(_stored(table[one.at], one.name) if own is None else own for own, table in measured))
    return _Measured(of=one, values=np.hstack([found, stored]), state_a=state_a, state_b=state_b)


class _Growing:
    """The sums while slices are added, and the measures of the shard that they are of."""

    def __init__(self, chosen: ChosenImages, most: int) -> None:
        self._chosen, self._most = chosen, most
        self._sums: dict[str, MapPairSums] = {}
        self._slices: dict[str, list[Float64Array]] = {}  # the measures (k, V) of the shard, by map
        self._cluster_pairs = np.zeros(len(chosen.identity), np.int64)
        self._changed: list[ChangedImage] = []
        self._queries: dict[_ImageId, QueryChange] = {}

    @property
    def pairs(self) -> int:
        """How many pairs were added."""
        return int(self._cluster_pairs.sum())

    def add(self, one: _Measured, queries: frozenset[str]) -> pa.Table | None:
        """Adds a slice; with the last one of a shard, returns the shard's rows of the table."""
        self._add_slice(one)
        maps, pairs = self._chosen.question.maps, one.of.pairs
        self._slices.setdefault(one.of.name, []).append(one.values)
        if not one.of.is_last or one.of.name != maps[-1]:
            return None
        values = {name: np.concatenate(self._slices.pop(name)) for name in maps}
        np.add.at(self._cluster_pairs, one.of.clusters, 1)
        self._keep_changed(pairs, values[maps[0]])
        self._keep_queries(pairs, values, one.of.clusters, queries)
        return _rows(pairs, values)

    def finish(self) -> PairedSums:
        """All sums, and the most changed images first."""
        return PairedSums(
            chosen=self._chosen,
            maps=self._sums,
            cluster_pairs=self._cluster_pairs,
            changed=tuple(self._changed),
            queries=self._queries,
        )

    def _add_slice(self, one: _Measured) -> None:
        of, chosen = one.of, self._chosen
        if of.name not in self._sums:
            self._sums[of.name] = MapPairSums.empty(of.grid, len(chosen.identity), chosen.groups.num_rows)
        sums, cluster, group = self._sums[of.name], of.clusters[of.at], chosen.group
        add_pairs(
            of.a, of.b, one.state_a, one.state_b, cluster, group, sums.difference, sums.mean_a, sums.mean_b, sums.pairs
        )
        add_values(one.values, cluster, sums.sums, sums.counts)
        for state, zero, not_finite in (
            (one.state_a, sums.zero_a, sums.not_finite_a),
            (one.state_b, sums.zero_b, sums.not_finite_b),
        ):
            zero += np.bincount(group[cluster[state == ZERO]], minlength=len(zero))
            not_finite += np.bincount(group[cluster[state == NOT_FINITE]], minlength=len(zero))

    def _keep_changed(self, pairs: ShardPairs, values: Float64Array) -> None:
        """Keeps the images whose first map moved most; those that do not have it are never among them."""
        moved = np.nan_to_num(values[:, MOVED], nan=-1)
        is_full = len(self._changed) == self._most
        there = np.flatnonzero(moved > (self._changed[-1].values[MOVED] if self._changed and is_full else -1))
        there = there[np.argsort(-moved[there], kind="stable")[: self._most]]
        found = [
            ChangedImage(shard=pairs.shard, key=key, values=tuple(row))
            for key, row in zip(pairs.keys.take(pa.array(there)).to_pylist(), values[there].tolist(), strict=True)
        ]
        both = sorted([*self._changed, *found], key=lambda image: -image.values[MOVED])  # stable
        self._changed = both[: self._most]

    def _keep_queries(
        self, pairs: ShardPairs, values: Mapping[str, Float64Array], cluster: Int32Array, queries: frozenset[str]
    ) -> None:
        if not queries:
            return
        identity = self._chosen.identity
        for row, key in enumerate(pairs.keys.to_pylist()):
            if key in queries:
                measured = {name: found[row] for name, found in values.items()}
                self._queries[pairs.shard, key] = QueryChange(identity=int(identity[cluster[row]]), values=measured)


def _rows(pairs: ShardPairs, values: Mapping[str, Float64Array]) -> pa.Table:
    """A shard's rows of diff.parquet."""
    shard = pa.DictionaryArray.from_arrays(np.zeros(len(pairs.keys), np.int32), [pairs.shard]).cast(pa.string())
    columns: list[pa.Array] = [shard, pairs.keys]
    for measured in values.values():
        columns += [float32_column(column) for column in measured.T]
    return pa.Table.from_arrays(columns, schema=table_schema(values))


def _stored(table: pa.Table, name: str) -> Float64Array:
    """(n, 3) what mining measured of a map; NaN where it is null."""
    columns = [table[f"{column_of(name)}_{measure}"].to_numpy() for measure in OF_EACH]
    return np.stack(columns, axis=1).astype(np.float64)
