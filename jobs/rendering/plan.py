"""Which pictures to draw of which rows: one for each image, pages, identities, or ranked lists (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import UserError
from jobs.rendering.colour_limits import columns_for
from jobs.rendering.names import picture_names
from jobs.rendering.painter import Job
from jobs.runs.query import RowSelection

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.rendering.drawing import Style
    from jobs.runs.run import Run

STYLES = ("overlay", "heatmap", "panel", "sheet", "identity", "ranked")
COLUMNS = (
    "shard", "key", "tar_index", "h5_row", "status", "pid", "camid", "split", "width", "height", "image_offset",
    "image_size",
)  # fmt: skip
ONE_MAP_EACH = ("overlay", "heatmap")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to render: the selection, how it looks, and where it goes."""

    output: Path
    style: Style
    scale: str = "image"
    form: str = "png"
    selection: RowSelection = field(default_factory=RowSelection)
    queries: Path | None = None
    topk: int = 10
    per_page: int = 8
    name_template: str | None = None
    shards_root: str | Path | None = None
    workers: int = 1
    overwrite: bool = False


@dataclass(frozen=True)
class Plan:
    """The rows that have maps, the pictures to draw of them, and (key, reason) of what cannot be drawn."""

    table: pa.Table
    jobs: list[Job]
    skipped: list[tuple[str, str]]


def plan(run: Run, config: Config) -> Plan:
    """Which pictures to draw of which rows, in the selection's order. Raises UserError if that is none."""
    import pyarrow.compute as pc

    from jobs.runs.query import read_queries, select_rows

    keys: Sequence[str] | None = config.selection.keys
    queries = None
    if config.queries is not None:
        queries, listed = read_queries(config.queries, ranked=config.style.kind == "ranked")
        keys = listed if keys is None else [key for key in keys if listed is None or key in set(listed)]
    elif config.style.kind == "ranked":
        raise UserError("--style ranked needs --queries: queries.parquet or failures.txt of `promptsg evaluate`")
    columns = [*COLUMNS, *columns_for(config.style.maps, config.scale)]
    selection = replace(config.selection, keys=None if keys is None else tuple(keys))
    table = select_rows(run, selection, joined=queries, columns=columns)
    if not table.num_rows:
        raise UserError(f"no image of {run.layout.root} fits the selection; give another --where, --keys or --queries")
    has_maps = pc.is_valid(table["h5_row"])
    failed = table.filter(pc.invert(has_maps))
    skipped = list(zip(failed["key"].to_pylist(), failed["status"].to_pylist(), strict=True))
    table = table.filter(has_maps)
    planners: dict[str, Callable[..., tuple[pa.Table, list[Job]]]] = {
        "sheet": _plan_sheets, "identity": _plan_identities, "ranked": _plan_ranked,
    }  # fmt: skip
    if config.name_template is not None and config.style.kind in ("sheet", "identity"):
        raise UserError(
            f"--name-template does not apply to --style {config.style.kind}, whose pictures show many images"
        )
    table, jobs = planners.get(config.style.kind, _plan_images)(run, config, table, queries, skipped)
    return Plan(table, jobs, skipped)


def _plan_images(run: Run, config: Config, table: pa.Table, *_: Any) -> tuple[pa.Table, list[Job]]:
    maps: Sequence[str | None] = config.style.maps if config.style.kind in ONE_MAP_EACH else [None]
    places = [(row, map) for row in range(table.num_rows) for map in maps]
    names = picture_names(
        run, table, places, style=config.style.kind, form=config.form, name_template=config.name_template
    )
    return table, [Job(name, (row,), map) for name, (row, map) in zip(names, places, strict=True)]


def _plan_sheets(run: Run, config: Config, table: pa.Table, *_: Any) -> tuple[pa.Table, list[Job]]:
    starts = range(0, table.num_rows, config.per_page)
    pages = [tuple(range(start, min(start + config.per_page, table.num_rows))) for start in starts]
    return table, [Job(f"sheet_{page:04d}.{config.form}", rows) for page, rows in enumerate(pages, start=1)]


def _plan_identities(
    run: Run, config: Config, table: pa.Table, queries: Any, skipped: list[tuple[str, str]]
) -> tuple[pa.Table, list[Job]]:
    by_pid: dict[int, list[int]] = {}
    for row, (pid, key) in enumerate(zip(table["pid"].to_pylist(), table["key"].to_pylist(), strict=True)):
        if pid is None:
            skipped.append((key, "no pid"))
        else:
            by_pid.setdefault(pid, []).append(row)
    return table, [Job(f"pid_{pid:04d}__identity.{config.form}", tuple(rows)) for pid, rows in by_pid.items()]


def _plan_ranked(
    run: Run, config: Config, table: pa.Table, queries: pa.Table, skipped: list[tuple[str, str]]
) -> tuple[pa.Table, list[Job]]:
    """A figure per query; the table then also has the gallery images that the figures show."""
    import pyarrow as pa

    from jobs.rendering.drawing import Hit
    from jobs.runs.query import rows_by_key

    ids = list(zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True))
    known = {(query["shard"], query["key"]): query for query in _chosen(queries, set(ids)).to_pylist()}
    found = {id: list(zip(known[id]["topk_shards"], known[id]["topk_keys"], strict=True))[: config.topk] for id in ids}
    gallery = rows_by_key(run, {hit for hits in found.values() for hit in hits}, table.column_names)
    place = {
        id: table.num_rows + row
        for row, id in enumerate(zip(gallery["shard"].to_pylist(), gallery["key"].to_pylist(), strict=True))
    }
    places = [(row, None) for row in range(table.num_rows)]
    names = picture_names(
        run, table, places, style=config.style.kind, form=config.form, name_template=config.name_template
    )
    jobs = []
    for row, (id, name) in enumerate(zip(ids, names, strict=True)):
        if missing := [hit for hit in found[id] if hit not in place]:
            raise UserError(f"--queries names {missing[0]}, which {run.layout.root} has not; evaluate this run again")
        marks = zip(known[id]["topk_distances"], known[id]["topk_correct"], strict=True)
        hits = tuple(Hit(distance, correct) for distance, correct in marks)[: config.topk]
        ap = known[id].get("ap")
        note = "" if ap is None else f"AP {ap:.3f}"
        jobs.append(Job(name, (row, *(place[hit] for hit in found[id])), hits=hits, note=note))
    return pa.concat_tables([table, gallery]), jobs


def _chosen(queries: pa.Table, ids: set[tuple[str, str]]) -> pa.Table:
    import pyarrow as pa

    pairs = zip(queries["shard"].to_pylist(), queries["key"].to_pylist(), strict=True)
    return queries.filter(pa.array([pair in ids for pair in pairs], pa.bool_()))
