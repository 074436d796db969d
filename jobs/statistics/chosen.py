"""The images that a question chooses from some shards, and the cluster of each: one identity in one group.

Legend: N images, C clusters, G groups, P identities. Columns are read with pyarrow; DuckDB computes expressions only.
Memory: 28 bytes per image, and 4 more for each column; a text to group by as long as it is. While the identities are
found, the keys are there too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from jobs.arrays import Float32Array, Int32Array, Int64Array
from jobs.identity import NOBODY, identity_codes, identity_columns
from jobs.progress import told
from jobs.runs.evaluation.query_scores import names_scores
from jobs.runs.metadata_sql import condition, create_samples, run_sql
from jobs.runs.run import Run
from jobs.statistics.expressions import OPTIONS, connect_images
from jobs.statistics.groups import distinct, find_groups
from jobs.statistics.question import Question

NULL_CAM = int(np.iinfo(np.int32).min)  # the camid of an image without one
_SHARDS_AT_A_TIME = 1000  # a block of them has a million images, as shards mostly are
_SHARD = "__fragment_index"  # which file of a dataset a row is from, as pyarrow calls it


@dataclass(frozen=True, kw_only=True)
class ChosenImages:
    """The chosen images of some shards, in order of (shard, row).

    shard_of, rows, camid, cluster (N,): of each image; `shard_of` counts in `shards`. groups: G rows of group values.
    group, identity, images (C,): of each cluster, in order of (group, identity). `identity` is a place in `identities`
    (P,), or NOBODY: all junk, distractors and unknown people of a group are one cluster.
    """

    run: Run
    question: Question
    shards: tuple[str, ...]
    shard_of: Int32Array
    rows: Int32Array
    camid: Int32Array
    cluster: Int32Array
    groups: pa.Table
    group: Int64Array
    identity: Int64Array
    identities: pa.StringArray
    images: Int64Array
    columns: pa.Table

    def column(self, name: str) -> Float32Array | None:
        """(N,) one of the columns that were read, NULL as NaN; None for any other."""
        return self.columns[name].to_numpy() if name in self.columns.column_names else None

    def spans(self) -> list[tuple[str, slice]]:
        """(shard, positions in `rows`, `cluster` and `camid`) of the shards that have a chosen image."""
        ends = np.searchsorted(self.shard_of, np.arange(len(self.shards) + 1, dtype=np.int32)).tolist()
        spans = zip(self.shards, pairwise(ends), strict=True)
        return [(shard, slice(first, last)) for shard, (first, last) in spans if last > first]


@told("choosing the images")
def choose_images(run: Run, question: Question, shards: Sequence[str], columns: Sequence[str] = ()) -> ChosenImages:
    """The chosen images of these shards, with some columns of 32-bit numbers besides."""
    shards = tuple(sorted(shards))
    shard_of, table, keys = run.reading_again(lambda: _read_rows(run, question, shards, columns))
    who = identity_codes(table)
    groups, group = find_groups(keys)
    # One number for each pair of a group and an identity, in which nobody is 0 and so comes first.
    width = len(who.names) + 1
    pairs, cluster = distinct(group * width + who.codes - NOBODY)
    return ChosenImages(
        run=run,
        question=question,
        shards=shards,
        shard_of=shard_of,
        rows=table["h5_row"].to_numpy().astype(np.int32),
        camid=pc.fill_null(table["camid"], NULL_CAM).to_numpy(),
        cluster=cluster.astype(np.int32),
        groups=groups,
        group=pairs // width,
        identity=pairs % width + NOBODY,
        identities=who.names,
        images=np.bincount(cluster, minlength=len(pairs)),
        columns=table.select(list(columns)),
    )


def choose_in_blocks(run: Run, question: Question, shards: Sequence[str]) -> Iterator[ChosenImages]:
    """The chosen images of some shards after those of others, so that only so many are in memory at a time."""
    shards = sorted(shards)
    # A subquery would look at the whole run again for each block.
    step = len(shards) if "select" in question.where.lower() else _SHARDS_AT_A_TIME
    for start in range(0, len(shards), max(1, step)):
        yield choose_images(run, question, shards[start : start + step])


def _read_rows(
    run: Run, question: Question, shards: tuple[str, ...], columns: Sequence[str]
) -> tuple[Int32Array, pa.Table, pa.Table]:
    """The chosen images in order of (shard, h5_row): their shards, as positions in `shards`; a table; the group values.

    The table has h5_row, camid, what tells the identity, and the columns.
    """
    names, expressions = [key.name for key in question.by], [key.expression for key in question.by]
    plain = ["h5_row", "camid", *identity_columns(run.schema.names), *columns]
    if not question.where.strip() and all(expression in run.schema.names for expression in expressions):
        shard_of, table = _scan(run, shards, list(dict.fromkeys([*plain, *expressions])))
    else:
        shard_of, table = _select(run, question, shards, plain)
        expressions = [f"g{i}" for i in range(len(expressions))]
    rows, step = table["h5_row"].to_numpy(), np.diff(shard_of)
    if (step < 0).any() or ((step == 0) & (np.diff(rows) < 0)).any():  # mostly they are in order
        order = np.lexsort((rows, shard_of))
        table, shard_of = table.take(order), shard_of[order]
    return shard_of, table.select(plain), table.select(expressions).rename_columns(names)


def _scan(run: Run, shards: tuple[str, ...], columns: list[str]) -> tuple[Int32Array, pa.Table]:
    """Columns of all images that have maps, and their shards."""
    table = run.read_metadata([*columns, _SHARD], shards)
    # As a filter of the scan this would copy every column, whether or not an image has no maps.
    table = table.filter(ds.field("h5_row").is_valid()) if table["h5_row"].null_count else table
    return table[_SHARD].to_numpy(), table


def _select(run: Run, question: Question, shards: tuple[str, ...], columns: list[str]) -> tuple[Int32Array, pa.Table]:
    """Columns of the images that have maps and meet the condition, with the group keys as g0, g1, ...; their shards."""
    expressions = [question.where, *(key.expression for key in question.by)]
    con = connect_images(run, expressions)
    create_samples(con, "block", run, run.metadata_files(shards), scored=names_scores(expressions))
    keys = [f"({key.expression}\n) AS g{i}" for i, key in enumerate(question.by)]
    chosen = f"h5_row IS NOT NULL AND {condition(question.where if question.where.strip() else None)}"
    table = run_sql(con, run, f"SELECT shard, {', '.join([*columns, *keys])} FROM block WHERE {chosen}", OPTIONS)
    return _positions(table["shard"], shards), table


def _positions(column: pa.ChunkedArray, names: Sequence[str]) -> Int32Array:
    """(N,) the position in `names` of each text."""
    encoded = column.dictionary_encode().combine_chunks()
    position = {name: index for index, name in enumerate(names)}
    places = np.array([position[name] for name in encoded.dictionary.to_pylist()], np.int32)
    found: Int32Array = places[encoded.indices.to_numpy()]
    return found
