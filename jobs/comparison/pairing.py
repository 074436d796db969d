"""Which images of a shard two runs both have maps of, by key (no torch).

Legend: n images of a shard that were chosen of run A.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.arrays import Int64Array
from jobs.runs.metadata_sql import connect_metadata, run_sql
from jobs.runs.rows.lookup import shard_rows
from jobs.runs.run import Run
from jobs.shards.random_access import CRC_COLUMN

_SHOWN = 5


@dataclass
class PairCounts:
    """What became of the images that were chosen of run A, and what else is in run B; keys are the first few.

    images: chosen of A. pairs: both runs have maps of them. other_shard: B has the key in another shard only. missing:
    B does not have the key. failed: B has the image, but no maps of it. only_b: B has maps of images that A has none
    of, whatever was chosen. other_image: of the pairs, those whose image has other bytes in B. unchecked: of the pairs,
    those of which a run has no CRC-32, as those of earlier versions.
    """

    images: int = 0
    pairs: int = 0
    other_shard: int = 0
    missing: int = 0
    failed: int = 0
    only_b: int = 0
    other_image: int = 0
    unchecked: int = 0
    other_shard_keys: list[str] = field(default_factory=list)
    missing_keys: list[str] = field(default_factory=list)
    failed_keys: list[str] = field(default_factory=list)
    other_image_keys: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ShardPairs:
    """The pairs of one shard, in the order of A's rows.

    chosen: which of the n images of A they are. keys, rows_a, rows_b: of each pair. table_a, table_b: further columns.
    """

    shard: str
    chosen: Int64Array
    keys: pa.Array
    rows_a: Int64Array
    rows_b: Int64Array
    table_a: pa.Table
    table_b: pa.Table


class Pairing:
    """Joins the images of two runs by (shard, key), shard by shard, and counts what has no partner."""

    def __init__(self, a: Run, b: Run, columns: Sequence[str]) -> None:
        self.a, self.b = a, b
        self.counts = PairCounts()
        self._columns = [(list(dict.fromkeys(["key", "h5_row", *_crc(run), *columns]))) for run in (a, b)]
        self._there = set(b.published())
        self._unpaired: list[pa.Array] = []  # keys that B does not have in A's shard

    def of_shard(self, shard: str, rows: Int64Array) -> ShardPairs:
        """The pairs among the images of A in these rising h5 rows (n,)."""
        every = self._rows(self.a, shard, self._columns[0])
        mine = _taken(every, np.searchsorted(every["h5_row"].to_numpy(), rows))
        keys = mine["key"].combine_chunks()
        self.counts.images += len(keys)
        if shard not in self._there:
            self._unpaired.append(keys)
            other = self.b.schema.empty_table().select(self._columns[1])
            return self._pairs(shard, rows, mine, other, np.full(len(rows), -1))
        theirs = shard_rows(self.b, shard, self._columns[1])
        with_maps = _with_maps(theirs)
        place = _places(keys, with_maps["key"])
        lacking = keys.filter(pa.array(place < 0))
        in_shard = pc.is_in(lacking, theirs["key"].combine_chunks())
        failed = lacking.filter(in_shard)
        self.counts.failed += len(failed)
        _keep_first(self.counts.failed_keys, failed)
        self._unpaired.append(lacking.filter(pc.invert(in_shard)))
        self.counts.only_b += int((_places(with_maps["key"], every["key"]) < 0).sum())
        return self._pairs(shard, rows, mine, with_maps, place)

    def _pairs(self, shard: str, rows: Int64Array, mine: pa.Table, theirs: pa.Table, place: Int64Array) -> ShardPairs:
        chosen = np.flatnonzero(place >= 0)
        table_a, table_b = _taken(mine, chosen), _taken(theirs, place[chosen])
        keys = table_a["key"].combine_chunks()
        self.counts.pairs += len(chosen)
        self._check_images(table_a, table_b, keys)
        return ShardPairs(
            shard=shard,
            chosen=chosen,
            keys=keys,
            rows_a=rows[chosen],
            rows_b=table_b["h5_row"].to_numpy().astype(np.int64),
            table_a=table_a,
            table_b=table_b,
        )

    def _check_images(self, table_a: pa.Table, table_b: pa.Table, keys: pa.Array) -> None:
        if not all(CRC_COLUMN in table.column_names for table in (table_a, table_b)):
            self.counts.unchecked += len(keys)
            return
        differs = pc.not_equal(table_a[CRC_COLUMN], table_b[CRC_COLUMN]).combine_chunks()
        self.counts.unchecked += differs.null_count
        others = keys.filter(pc.fill_null(differs, False))
        self.counts.other_image += len(others)
        _keep_first(self.counts.other_image_keys, others)

    def finish(self, shards: Iterable[str]) -> PairCounts:
        """The counts, after all `shards` of A with a chosen image; of the others B's images are counted here."""
        seen, mine = set(shards), set(self.a.published())
        for shard in sorted(self._there - seen):
            if shard not in mine:
                self.counts.only_b += self.b.footer_of(shard).images
                continue
            theirs = self._rows(self.b, shard, ["key", "h5_row"])
            every = self._rows(self.a, shard, ["key", "h5_row"])
            self.counts.only_b += int((_places(theirs["key"], every["key"]) < 0).sum())
        for keys, elsewhere in self._found_elsewhere():
            self.counts.other_shard += len(elsewhere)
            _keep_first(self.counts.other_shard_keys, elsewhere)
            missing = keys.filter(pc.invert(pc.is_in(keys, elsewhere)))
            self.counts.missing += len(missing)
            _keep_first(self.counts.missing_keys, missing)
        return self.counts

    def _found_elsewhere(self) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Of the keys that B does not have in A's shard, by shard: all, and those that it has in another one."""
        if not any(len(keys) for keys in self._unpaired):
            return
        every = pa.concat_arrays(self._unpaired)
        connection = connect_metadata(self.b)
        connection.register("wanted", pa.table({"key": every}))
        sql = "SELECT DISTINCT key FROM samples WHERE h5_row IS NOT NULL AND key IN (SELECT key FROM wanted)"
        there = run_sql(connection, self.b, sql)["key"].combine_chunks()
        for keys in self._unpaired:
            yield keys, keys.filter(pc.is_in(keys, there))

    @staticmethod
    def _rows(run: Run, shard: str, columns: Sequence[str]) -> pa.Table:
        """Columns of a shard's images that have maps, in the order of their h5 rows."""
        return _with_maps(shard_rows(run, shard, columns))


def _crc(run: Run) -> list[str]:
    return [CRC_COLUMN] if CRC_COLUMN in run.schema.names else []


def _with_maps(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.is_valid(rows["h5_row"])) if rows["h5_row"].null_count else rows


def _places(keys: pa.Array | pa.ChunkedArray, among: pa.ChunkedArray) -> Int64Array:
    """(n,) the place of each key among others, which differ from each other; -1 where it is not there."""
    if pa.chunked_array(keys).equals(among):  # as mostly; looking each one up takes ten times as long
        return np.arange(len(keys))
    found = pc.fill_null(pc.index_in(keys, value_set=among), -1)
    places: Int64Array = found.to_numpy().astype(np.int64)
    return places


def _taken(table: pa.Table, places: Int64Array) -> pa.Table:
    """The rows at these places; where those are all rows in their order, nothing is copied."""
    if np.array_equal(places, np.arange(len(table))):
        return table
    return table.take(pa.array(places))


def _keep_first(kept: list[str], keys: pa.Array) -> None:
    kept += keys.slice(0, max(0, _SHOWN - len(kept))).to_pylist()
