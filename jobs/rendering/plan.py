"""Which pictures to draw of which rows of a run: one for each image, pages, identities or ranked lists."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import UserError
from jobs.identity import identities
from jobs.progress import told
from jobs.rendering.colour_limits import columns_for
from jobs.rendering.drawing.entry import ROW_COLUMNS
from jobs.rendering.drawing.job import LeftOut, PictureJob
from jobs.rendering.drawing.style import IDENTITY, ONE_MAP_EACH, RANKED, SHEET, OtherRun, PictureStyle
from jobs.rendering.extent import extent_columns
from jobs.rendering.names import NamedPicture, identity_names, numbered, picture_names
from jobs.rendering.ranked_plan import plan_ranked
from jobs.rendering.render_config import RenderConfig
from jobs.rendering.two_runs import is_in_both
from jobs.runs.query import keys_in_several_shards, select_rows
from jobs.runs.query_list import QueryList, read_queries
from jobs.runs.run import Run, open_run
from jobs.shards.random_access import CRC_COLUMN

NO_IDENTITY = "no identity"  # the reason why distractors, junk and unknown images are on no identity's page
_OF_LATER_RUNS = ("role", "identity", CRC_COLUMN)  # columns that earlier versions of the program did not write
_Place = tuple[int, str | None]  # a row of the table, and the one map that its picture shows


@dataclass(frozen=True)
class RenderPlan:
    """The rows that pictures show, the pictures in their order, and what cannot be drawn."""

    table: pa.Table
    jobs: list[PictureJob]
    left_out: list[LeftOut]


@dataclass(frozen=True)
class _Chosen:
    """The chosen rows that have maps, the others, and the table of queries.parquet where one was read."""

    table: pa.Table
    left_out: list[LeftOut]
    queries: pa.Table | None


@told("choosing the images")
def plan(run: Run, config: RenderConfig, style: PictureStyle) -> RenderPlan:
    """Which pictures to draw of which rows, in the selection's order. Raises UserError where no row is selected."""
    chosen = _choose_rows(run, config, style)
    table, left_out = chosen.table, chosen.left_out
    if style.kind == SHEET:
        jobs = _sheets(table, config.per_page)
    elif style.kind == IDENTITY:
        jobs, nobody = _identity_pages(table)
        left_out = left_out + nobody
    elif style.kind == RANKED:
        assert chosen.queries is not None  # RenderConfig checked that there are some
        names = _names(run, config, table, [(row, None) for row in range(table.num_rows)])
        table, jobs = plan_ranked(run, table, names, chosen.queries, config.topk)
    else:
        maps = style.maps if style.kind in ONE_MAP_EACH else (None,)
        places = [(row, map) for row in range(table.num_rows) for map in maps]
        names = _names(run, config, table, places)
        jobs = [PictureJob(name=name, rows=(row,), map=map) for name, (row, map) in zip(names, places, strict=True)]
    return RenderPlan(table, _named(jobs, config), left_out)


def _named(jobs: list[PictureJob], config: RenderConfig) -> list[PictureJob]:
    """The pictures with the whole path of each below the output folder, and with their numbers if they have any."""
    if config.is_numbered:
        pages = config.style == IDENTITY
        places = [place if pages else job.rows[0] for place, job in enumerate(jobs)]
        last = max(places, default=0) + 1
        jobs = [
            replace(job, number=place + 1, name=f"{numbered(place + 1, last)}_{job.name}")
            for job, place in zip(jobs, places, strict=True)
        ]
    return [replace(job, name=f"{config.style_folder}{job.name}.{config.form}") for job in jobs]


def _choose_rows(run: Run, config: RenderConfig, style: PictureStyle) -> _Chosen:
    listed = QueryList() if config.queries is None else read_queries(config.queries, ranked=style.kind == RANKED)
    selection = replace(config.selection, keys=listed.keys_among(config.selection.keys))
    columns = [*ROW_COLUMNS, "status", *columns_for(style.maps, style.looks.scale)]
    columns += [name for name in _OF_LATER_RUNS if name in run.schema.names]
    columns = list(dict.fromkeys([*columns, *extent_columns(style.maps, run.schema.names)]))
    table = select_rows(run, selection, joined=listed.table, columns=columns)
    if not table.num_rows:
        raise UserError(f"no image of {run.layout.root} fits the selection; give another --where, --keys or --queries")
    has_maps = pc.is_valid(table["h5_row"])
    failed = table.filter(pc.invert(has_maps))
    keys_and_statuses = zip(failed["key"].to_pylist(), failed["status"].to_pylist(), strict=True)
    left_out = [LeftOut(key, status) for key, status in keys_and_statuses]
    table = table.filter(has_maps)
    if style.other is not None:
        table, missing = _in_both(table, style.other)
        left_out += missing
    return _Chosen(table, left_out, listed.table)


def _in_both(table: pa.Table, other: OtherRun) -> tuple[pa.Table, list[LeftOut]]:
    """The rows that the other run has maps of too, by shard and key, and the others."""
    there = is_in_both(table, open_run(other.root))
    reason = f"no maps of it in {other.root}"
    missing = [LeftOut(key, reason) for key, both in zip(table["key"].to_pylist(), there, strict=True) if not both]
    return table.filter(pa.array(there, pa.bool_())), missing


def _names(run: Run, config: RenderConfig, table: pa.Table, places: list[_Place]) -> list[str]:
    """The name of each picture, without its ending."""
    keys, shards = table["key"].to_pylist(), table["shard"].to_pylist()
    pids, camids = table["pid"].to_pylist(), table["camid"].to_pylist()
    pictures = [
        NamedPicture(key=keys[row], shard=shards[row], pid=pids[row], camid=camids[row], map=map, number=row + 1)
        for row, map in places
    ]
    # The user's own template says itself whether it names the shard.
    shared = frozenset(keys_in_several_shards(run, keys)) if config.name_template is None else frozenset()
    return picture_names(pictures, style=config.style, template=config.name_template, shared_keys=shared)


def _sheets(table: pa.Table, per_page: int) -> list[PictureJob]:
    """Pages of so many images, in order."""
    starts = range(0, table.num_rows, per_page)
    return [
        PictureJob(name=f"sheet_{page:04d}", rows=tuple(range(start, min(start + per_page, table.num_rows))))
        for page, start in enumerate(starts, start=1)
    ]


def _identity_pages(table: pa.Table) -> tuple[list[PictureJob], list[LeftOut]]:
    """A page for each identity, in the order of their first images; and the images that show nobody known."""
    rows_of: dict[str, list[int]] = {}
    nobody = []
    for row, (identity, key) in enumerate(zip(identities(table).to_pylist(), table["key"].to_pylist(), strict=True)):
        if identity is None:
            nobody.append(LeftOut(key, NO_IDENTITY))
        else:
            rows_of.setdefault(identity, []).append(row)
    names = identity_names(rows_of)
    jobs = [
        PictureJob(name=names[identity], rows=tuple(rows), identity=_title(identity))
        for identity, rows in rows_of.items()
    ]
    return jobs, nobody


def _title(identity: str) -> str:
    return f"pid {int(identity)}" if identity.isdecimal() else f"identity {identity}"
