"""Which rows a gallery shows, with their maps, and why others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cam.measures import measure_maps
from cam.names import MapName, column_of
from cam.overlay import Range, range_of
from cam.placement import GridPlacement
from jobs.arrays import Float32Array
from jobs.rendering.drawing.style import OtherRun
from jobs.rendering.looks import Looks
from jobs.rendering.two_runs import rows_in_both
from jobs.runs.evaluation.query_scores import known_scores, with_scores
from jobs.runs.heads.names import is_head
from jobs.runs.query import RowSelection, count_by_status, select_rows
from jobs.runs.run import Run
from jobs.shards.samples import KEPT, NOT_FINITE, OK
from jobs.tables import float32_column

OF_B = "__b"  # what the columns of run B end with
NOT_IN_B = "not_in_run_b"


@dataclass(frozen=True, kw_only=True)
class GalleryStyle:
    """Which maps a gallery shows and how; `thumb_height` is the height of pictures in pixels.

    `placement` says where the patches lie on an image, None for equal cells. `other` is a run B whose maps of the same
    names can be switched to, None without one.
    """

    maps: tuple[str, ...]
    looks: Looks
    thumb_height: int
    placement: GridPlacement | None = None
    other: OtherRun | None = None

    def placement_of(self, column: str) -> GridPlacement | None:
        """Where the patches of a map lie, of the run's own columns and of run B's."""
        return self.other.placement if self.other is not None and column in self.other_columns else self.placement

    @property
    def other_columns(self) -> dict[str, str]:
        """What a map of run B is called on the page -> its name; empty without a run B."""
        return {} if self.other is None else {f"{column}{OF_B}": name for column, name in self.columns.items()}

    @property
    def columns(self) -> dict[str, str]:
        """A map's column -> its name."""
        return {column_of(name): name for name in self.maps}


@dataclass(frozen=True, kw_only=True)
class GalleryRows:
    """The rows that are shown, all columns of the metadata, the scores of queries where they are known and the measures
    of single heads; their maps.

    `maps` is column -> (N, h, w), in the order of the rows, and `limits` column -> the ends of its colour scale, None
    where each map has its own. `matching` rows fit the selection; `left_out` counts those that cannot be shown.
    """

    table: pa.Table
    maps: dict[str, Float32Array]
    limits: dict[str, Range | None]
    matching: int
    left_out: dict[str, int]
    others: pa.Table | None = None

    @property
    def images(self) -> int:
        """How many rows are shown."""
        return int(self.table.num_rows)

    @property
    def cut(self) -> int:
        """How many rows are beyond the limit."""
        return self.matching - self.images - sum(self.left_out.values())


def choose_rows(run: Run, selection: RowSelection, style: GalleryStyle, other: Run | None = None) -> GalleryRows:
    """The selected rows that have all the maps, all of them finite. Raises UserError on an error in the selection."""
    shown = [OK] if any(MapName.parse(name).needs_target for name in style.maps) else sorted(KEPT)
    statuses = ", ".join(f"'{status}'" for status in shown)
    table = select_rows(run, selection, also=f"status IN ({statuses})")
    if (scores := known_scores(run)) is not None:
        table = with_scores(table, scores)
    left_out, matching = _count(run, selection, frozenset(shown))
    others = None
    if other is not None:
        selected = len(table)
        table, others = rows_in_both(table, other)
        if selected > len(table):
            left_out[NOT_IN_B] = selected - len(table)
    maps = {column: run.maps_of(name, table) for column, name in style.columns.items()}
    if other is not None:
        maps |= {column: other.maps_of(name, others) for column, name in style.other_columns.items()}
    finite = np.logical_and.reduce([np.isfinite(values).all(axis=(1, 2)) for values in maps.values()])
    if not finite.all():
        left_out[NOT_FINITE] = int((~finite).sum())
        table, others = table.filter(finite), None if others is None else others.filter(finite)
        maps = {column: values[finite] for column, values in maps.items()}
    limits = {column: range_of(_both(maps, column), style.looks.scale) for column in style.columns}
    limits |= {f"{column}{OF_B}": limits[column] for column in style.columns if style.other is not None}
    table = _with_heads(table, run, style, {column: maps[column] for column in style.columns})
    if other is not None and others is not None:
        others = _with_heads(others, other, style, {column: maps[f"{column}{OF_B}"] for column in style.columns})
    return GalleryRows(table=table, maps=maps, limits=limits, matching=matching, left_out=left_out, others=others)


def _with_heads(table: pa.Table, run: Run, style: GalleryStyle, maps: Mapping[str, Float32Array]) -> pa.Table:
    """The rows with what mining would have stored of each head that is shown; `maps` is column -> (N, h, w)."""
    for column, name in style.columns.items():
        if is_head(name) and len(table):
            for measure, values in measure_maps(maps[column], run.manifest.measured_placement).items():
                table = table.append_column(f"{column}_{measure}", float32_column(values))
    return table


def _both(maps: Mapping[str, Float32Array], column: str) -> Float32Array:
    """The values of a map in both runs, which share a colour scale; with one run, its maps."""
    other = maps.get(f"{column}{OF_B}")
    return maps[column] if other is None else np.concatenate([maps[column].ravel(), other.ravel()])


def reasons(left_out: Mapping[str, int]) -> str:
    """`3 image_corrupt, 1 no_label`: why rows are left out."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))


def _count(run: Run, selection: RowSelection, shown: frozenset[str]) -> tuple[dict[str, int], int]:
    """Status -> rows of it that are not shown, and how many rows match, a sample counted as it was drawn."""
    found = _statuses(run, selection)
    left_out = {status: count for status, count in found.items() if status not in shown}
    count = sum(found.values()) - sum(left_out.values())
    if selection.sample is not None:
        count = min(count, selection.sample)
    return left_out, count + sum(left_out.values())


def _statuses(run: Run, selection: RowSelection) -> Mapping[str, int]:
    """Status -> how many rows meet the condition; without keys, counted where the rows are, since they may be many."""
    if selection.keys is None:
        return count_by_status(run, selection.where)
    every = replace(selection, order_by=None, limit=None, sample=None)
    return Counter(select_rows(run, every, columns=["status"])["status"].to_pylist())
