"""Which pictures to draw of ranked lists: a query and its first gallery images each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

import pyarrow as pa

from jobs.errors import UserError
from jobs.rendering.drawing.captions import ap_text
from jobs.rendering.drawing.job import PictureJob, RankedHit
from jobs.runs.rows.lookup import rows_by_key
from jobs.runs.run import Run

_ImageId = tuple[str, str]  # (shard, key)


class _OptionalColumns(TypedDict, total=False):
    ap: float | None


class _QueryRow(_OptionalColumns):
    """A row of queries.parquet, as far as it is needed here."""

    shard: str
    key: str
    topk_shards: list[str]
    topk_keys: list[str]
    topk_distances: list[float]
    topk_correct: list[bool]


@dataclass(frozen=True)
class _RankedList:
    """What `promptsg evaluate` found for one query: the ids of its first gallery images, with their hits."""

    gallery: tuple[_ImageId, ...]
    hits: tuple[RankedHit, ...]
    ap: float | None


def plan_ranked(
    run: Run, table: pa.Table, names: Sequence[str], queries: pa.Table, topk: int
) -> tuple[pa.Table, list[PictureJob]]:
    """A picture for each row of `table`, under these names; and a table that also has the gallery images.

    `queries` is the table of queries.parquet. Raises UserError on a gallery image that the run does not have.
    """
    ids = _ids(table)
    lists = _ranked_lists(queries, set(ids), topk)
    gallery = rows_by_key(run, {image for id in ids for image in lists[id].gallery}, table.column_names)
    place = {image: row for row, image in enumerate(_ids(gallery), table.num_rows)}
    jobs = []
    for row, (id, name) in enumerate(zip(ids, names, strict=True)):
        ranked = lists[id]
        if missing := [image for image in ranked.gallery if image not in place]:
            raise UserError(
                f"--queries names {missing[0]}, which {run.layout.root} does not have; evaluate this run again"
            )
        rows = (row, *(place[image] for image in ranked.gallery))
        jobs.append(PictureJob(name=name, rows=rows, hits=ranked.hits, note=ap_text(ranked.ap)))
    return pa.concat_tables([table, gallery]), jobs


def _ids(table: pa.Table) -> list[_ImageId]:
    return list(zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True))


def _ranked_lists(queries: pa.Table, wanted: set[_ImageId], topk: int) -> dict[_ImageId, _RankedList]:
    """Query -> its list, for the wanted queries alone."""
    chosen = queries.filter(pa.array([id in wanted for id in _ids(queries)], pa.bool_()))
    rows = cast("list[_QueryRow]", chosen.to_pylist())
    return {(row["shard"], row["key"]): _ranked_list(row, topk) for row in rows}


def _ranked_list(row: _QueryRow, topk: int) -> _RankedList:
    gallery = zip(row["topk_shards"], row["topk_keys"], strict=True)
    hits = zip(row["topk_distances"], row["topk_correct"], strict=True)
    return _RankedList(
        gallery=tuple(gallery)[:topk],
        hits=tuple(RankedHit(distance, correct) for distance, correct in hits)[:topk],
        ap=row.get("ap"),
    )
