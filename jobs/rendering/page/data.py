"""The data of a gallery's page: how it came about, its maps with their colour scales, and its rows."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from cam.measures import MEASURES
from cam.names import title_of
from cam.overlay import apply_colormap
from cam.placement import GridPlacement
from jobs.rendering.page.pictures import PART
from jobs.rendering.page.rows import OF_B, GalleryRows, GalleryStyle
from jobs.runs.evaluation.query_scores import SCORES
from jobs.runs.query import RowSelection
from jobs.runs.run import Run

IMAGE_NUMBERS = ("pid", "camid", "seq", "frame", "width", "height", "predicted", "score", "probability")
TEXTS = ("key", "shard", "split")


def page_data(run: Run, shown: GalleryRows, selection: RowSelection, style: GalleryStyle) -> dict[str, object]:
    """All that the page knows, as JSON; the rows are column by column. At least one row is shown."""
    table, columns = shown.table, style.columns
    there = frozenset(table.column_names)
    measures = [measure for measure in MEASURES if all(f"{column}_{measure}" in there for column in columns)]
    grid = int(table["grid_h"][0].as_py()), int(table["grid_w"][0].as_py())
    placement = style.placement or GridPlacement.even(grid)
    # The scores are of queries: without one among the rows there is nothing to sort by.
    scores = [name for name in SCORES if name in table.column_names and table[name].null_count < len(table)]
    numbers = [*IMAGE_NUMBERS, *scores, *(f"{column}_{measure}" for column in columns for measure in measures)]
    return {
        "run": run.layout.root.resolve().name,
        "fingerprint": run.manifest.fingerprint,
        "where": selection.where,
        "order_by": selection.order_by,
        "sample": selection.sample,
        "images": shown.images,
        "matching": shown.matching,
        "cut": shown.cut,
        "left_out": shown.left_out,
        "part": PART,
        "maps": [
            {"name": title_of(name), "column": column, "limits": shown.limits[column], "b": _of_b(shown, style, column)}
            for column, name in columns.items()
        ],
        "other": None if style.other is None else style.other.root.resolve().name,
        "measures": measures,
        "image_numbers": [*IMAGE_NUMBERS, *scores],
        "grid": list(grid),
        "centres": [[axis.first, axis.step] for axis in (placement.rows, placement.columns)],
        "colormap": style.looks.colormap,
        "colours": _colours(style.looks.colormap),
        "alpha": style.looks.share,
        "fade": style.looks.fade,
        "thumb_height": style.thumb_height,
        "rows": {name: _values(table, name) for name in (*TEXTS, *numbers)} | _rows_of_b(shown, style, measures),
    }


def _of_b(shown: GalleryRows, style: GalleryStyle, column: str) -> dict[str, object] | None:
    """What the page knows of a map of run B; None without one."""
    if style.other is None:
        return None
    h, w = shown.maps[f"{column}{OF_B}"].shape[1:]
    placement = style.other.placement or GridPlacement.even((h, w))
    return {
        "name": title_of(style.columns[column]),
        "column": f"{column}{OF_B}",
        "limits": shown.limits[f"{column}{OF_B}"],
        "grid": [h, w],
        "centres": [[axis.first, axis.step] for axis in (placement.rows, placement.columns)],
    }


def _rows_of_b(shown: GalleryRows, style: GalleryStyle, measures: list[str]) -> dict[str, list[object]]:
    """The measures of run B's maps, as far as it has them."""
    if shown.others is None:
        return {}
    names = {f"{column}{OF_B}_{measure}": f"{column}_{measure}" for column in style.columns for measure in measures}
    count = shown.images
    return {
        to: _values(shown.others, name) if name in shown.others.column_names else [None] * count
        for to, name in names.items()
    }


def _values(table: pa.Table, name: str) -> list[object]:
    return [_short(value) for value in table[name].to_pylist()]


def _colours(colormap: str) -> list[str]:
    """The 256 colours from low to high, as #rrggbb."""
    levels = apply_colormap(np.linspace(0, 1, 256, dtype=np.float32)[None], colormap)[0]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in levels.tolist()]


def _short(value: object) -> object:
    """A number as JSON has it: six digits, null where it is not finite; other values as they are."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
