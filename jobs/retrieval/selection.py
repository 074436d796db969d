"""Which images take part in retrieval, as queries and as gallery, and who is on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.arrays import Float32Array, Int64Array
from jobs.errors import UserError
from jobs.identity import DISTRACTOR, JUNK, identity_codes, identity_columns, roles
from jobs.retrieval.protocol import Side
from jobs.runs.query import RowSelection, select_rows
from jobs.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class SideCounts:
    """How many images a condition selects among those with features, and what they are.

    without_label: pid or camid is null; they are left out. junk, distractors: among the others. Distractors are ranked
    and match no image. Junk is left out of the gallery, and a junk query has no match. ranked: how many are ranked.
    """

    selected: int
    without_label: int
    junk: int
    distractors: int
    ranked: int


@dataclass(frozen=True, kw_only=True)
class SideRows:
    """The metadata rows of the queries or of the gallery, in the order of shards and tars.

    identity (N,): equal for the same person on both sides, or NOBODY. camid (N,).
    """

    table: pa.Table
    identity: Int64Array
    camid: Int64Array

    def __len__(self) -> int:
        return len(self.identity)

    def side(self, features: Float32Array) -> Side:
        """The rows as the protocol takes them, with their features (N, D)."""
        return Side(features, self.identity, self.camid)


def select_side(
    run: Run, where: str, option: str, columns: Sequence[str], *, keep_junk: bool
) -> tuple[pa.Table, SideCounts]:
    """The rows that have a feature, a pid and a camid and meet an SQL condition over the metadata's columns.

    They have the columns shard, key, h5_row, pid, camid, what tells who they are, and `columns`. Raises UserError
    naming the option if the condition is not SQL, or no row is left.
    """
    names = ["shard", "key", "h5_row", "pid", "camid", *identity_columns(run.schema.names), *columns]
    table = select_rows(
        run,
        RowSelection(where=where),
        columns=list(dict.fromkeys(names)),
        also="h5_row IS NOT NULL",
        option=option,
    )
    labelled = table.filter(pc.and_(pc.is_valid(table["pid"]), pc.is_valid(table["camid"])))
    role = roles(labelled)
    is_junk = pc.fill_null(pc.equal(role, JUNK), False)
    kept = labelled if keep_junk else labelled.filter(pc.invert(is_junk))
    counts = SideCounts(
        selected=len(table),
        without_label=len(table) - len(labelled),
        junk=_count(is_junk),
        distractors=_count(pc.equal(role, DISTRACTOR)),
        ranked=len(kept),
    )
    if not counts.ranked:
        raise UserError(
            f"{run.layout.root}: {option} {where!r} leaves nothing to rank: {counts.selected} images with features, "
            f"{counts.without_label} of them without pid or camid and {counts.junk} junk (pid -1)"
        )
    return kept, counts


def as_sides(queries: pa.Table, gallery: pa.Table) -> tuple[SideRows, SideRows]:
    """Both sides' rows, in which the same person has the same identity."""
    names = identity_columns(queries.column_names)
    codes = identity_codes(pa.concat_tables([queries.select(names), gallery.select(names)])).codes
    identity = np.split(codes, [len(queries)])
    first, second = (
        SideRows(table=table, identity=who, camid=table["camid"].to_numpy().astype(np.int64))
        for table, who in zip((queries, gallery), identity, strict=True)
    )
    return first, second


def _count(mask: pa.ChunkedArray) -> int:
    """How many are true."""
    return int(pc.sum(mask).as_py() or 0)
