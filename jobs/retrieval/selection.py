"""Which images take part in retrieval, as queries and as gallery, and who is on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.arrays import BoolArray, Float32Array, Int64Array
from jobs.errors import UserError
from jobs.identity import DISTRACTOR, JUNK, NOBODY, identities, identity_codes, identity_columns, roles
from jobs.phrases import counted, first_few
from jobs.retrieval.protocol import Side
from jobs.runs.query import RowSelection, select_rows
from jobs.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class SideCounts:
    """How many images a condition selects among those with features, and what they are.

    without_label: it is not known who it is, or the camid is null; they are left out. junk, distractors: among the
    others. Distractors are ranked and match no image. Junk is left out of the gallery, and a junk query has no match.
    ranked: how many are ranked.
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
    """The rows with a feature and a camid, of known people, that meet an SQL condition over the metadata's columns.

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
    role = roles(table)
    nobody = pc.fill_null(pc.is_in(role, pa.array([DISTRACTOR, JUNK])), False)  # known to match no image
    has_label = pc.and_(pc.or_(nobody, pc.is_valid(identities(table))), pc.is_valid(table["camid"]))
    labelled, role = table.filter(has_label), role.filter(has_label)
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
            f"{run.layout.root}: {option} {where!r} leaves nothing to rank: {counted(counts.selected, 'image')} "
            "with features, "
            f"{counts.without_label} of them without pid or camid and {counts.junk} junk; the run has {_splits_of(run)}"
            f"{_unfinished(run)}"
        )
    return kept, counts


def _unfinished(run: Run) -> str:
    """How many shards have no images yet, for messages; nothing where all have some."""
    missing = len(run.manifest.shards) - len(run.published())
    return (
        f". {counted(missing, 'shard is', 'shards are')} not mined yet: go on with `promptsg mine`" if missing else ""
    )


def _splits_of(run: Run) -> str:
    """The splits of a run, for messages."""
    known = run.metadata().to_table(columns=["split"])["split"].unique().to_pylist()
    names = first_few(sorted(name for name in known if name is not None))
    return f"the splits {names}" if names else "no splits"


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


def own_places(queries: SideRows, gallery: SideRows) -> Int64Array:
    """(N,) the place of each query's own image in the gallery, -1 where it is not there."""
    shards = pa.concat_tables([queries.table.select(["shard"]), gallery.table.select(["shard"])])["shard"]
    shard = shards.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    row = np.concatenate([queries.table["h5_row"].to_numpy(), gallery.table["h5_row"].to_numpy()])
    image = shard * (int(row.max(initial=0)) + 1) + row  # one number for each image of the run
    wanted, there = np.split(image, [len(queries)])
    order = np.argsort(there)
    place = np.minimum(np.searchsorted(there, wanted, sorter=order), len(there) - 1)
    found: Int64Array = np.where(there[order][place] == wanted, order[place], -1)
    return found


def only_in_own_camera(queries: SideRows, gallery: SideRows, own: Int64Array) -> BoolArray:
    """(N,) whether other images of a query's person are in the gallery, but all of them of the query's camera.

    `own` (N,) are the queries' own places in the gallery, -1 where they are not there.
    """
    cameras, numbers = np.unique(np.append(queries.camid, gallery.camid), return_inverse=True)
    camid, there = np.split(numbers, [len(queries)])
    of_person = _occurrences(queries.identity, gallery.identity)
    pairs = queries.identity * len(cameras) + camid, gallery.identity * len(cameras) + there
    of_camera = _occurrences(*pairs)
    known = queries.identity != NOBODY
    found: BoolArray = known & (of_person == of_camera) & (of_camera > (own >= 0))
    return found


def _occurrences(wanted: Int64Array, values: Int64Array) -> Int64Array:
    """(N,) how often each wanted number occurs among the values."""
    known, many = np.unique(values, return_counts=True)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    found: Int64Array = np.where(known[place] == wanted, many[place], 0)
    return found


def _count(mask: pa.ChunkedArray) -> int:
    """How many are true."""
    return int(pc.sum(mask).as_py() or 0)
