"""Which rows a gallery shows, with their maps, and why others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cam.names import MapName, column_of
from cam.overlay import Range, range_of
from cam.placement import GridPlacement
from jobs.arrays import Float32Array
from jobs.rendering.looks import Looks
from jobs.runs.query import RowSelection, count_by_status, select_rows
from jobs.runs.run import Run
from jobs.shards.samples import KEPT, NOT_FINITE, OK


@dataclass(frozen=True, kw_only=True)
class GalleryStyle:
    """Which maps a gallery shows and how; `thumb_height` is the height of pictures in pixels.

    `placement` says where the patches lie on an image, None for equal cells.
    """

    maps: tuple[str, ...]
    looks: Looks
    thumb_height: int
    placement: GridPlacement | None = None

    @property
    def columns(self) -> dict[str, str]:
        """A map's column -> its name."""
        return {column_of(name): name for name in self.maps}


@dataclass(frozen=True, kw_only=True)
class GalleryRows:
    """The rows that are shown, all columns of the metadata, with their maps.

    `maps` is column -> (N, h, w), in the order of the rows, and `limits` column -> the ends of its colour scale, None
    where each map has its own. `matching` rows fit the selection; `left_out` counts those that cannot be shown.
    """

    table: pa.Table
    maps: dict[str, Float32Array]
    limits: dict[str, Range | None]
    matching: int
    left_out: dict[str, int]

    @property
    def images(self) -> int:
        """How many rows are shown."""
        return int(self.table.num_rows)

    @property
    def cut(self) -> int:
        """How many rows are beyond the limit."""
        return self.matching - self.images - sum(self.left_out.values())


def choose_rows(run: Run, selection: RowSelection, style: GalleryStyle) -> GalleryRows:
    """The selected rows that have all the maps, all of them finite. Raises UserError on an error in the selection."""
    shown = [OK] if any(MapName.parse(name).needs_target for name in style.maps) else sorted(KEPT)
    statuses = ", ".join(f"'{status}'" for status in shown)
    table = select_rows(run, selection, also=f"status IN ({statuses})")
    maps = {column: run.maps_of(name, table) for column, name in style.columns.items()}
    finite = np.logical_and.reduce([np.isfinite(values).all(axis=(1, 2)) for values in maps.values()])
    left_out, matching = _count(run, selection, frozenset(shown))
    if not finite.all():
        left_out[NOT_FINITE] = int((~finite).sum())
        table = table.filter(finite)
        maps = {column: values[finite] for column, values in maps.items()}
    limits = {column: range_of(values, style.looks.scale) for column, values in maps.items()}
    return GalleryRows(table=table, maps=maps, limits=limits, matching=matching, left_out=left_out)


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
