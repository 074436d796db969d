"""The data of a gallery's page: how it came about, its maps with their colour scales, and its rows."""

from __future__ import annotations

import math

import numpy as np

from cam.measures import MEASURES
from cam.overlay import apply_colormap
from cam.placement import GridPlacement
from jobs.rendering.page.pictures import PART
from jobs.rendering.page.rows import GalleryRows, GalleryStyle
from jobs.runs.query import RowSelection
from jobs.runs.run import Run

IMAGE_NUMBERS = ("pid", "camid", "seq", "frame", "width", "height", "predicted", "score", "probability")
TEXTS = ("key", "shard", "split")


def page_data(run: Run, shown: GalleryRows, selection: RowSelection, style: GalleryStyle) -> dict[str, object]:
    """All that the page knows, as JSON; the rows are column by column. At least one row is shown."""
    table, columns = shown.table, style.columns
    measures = [measure for measure in MEASURES if f"{next(iter(columns))}_{measure}" in run.schema.names]
    grid = int(table["grid_h"][0].as_py()), int(table["grid_w"][0].as_py())
    placement = style.placement or GridPlacement.even(grid)
    numbers = [*IMAGE_NUMBERS, *(f"{column}_{measure}" for column in columns for measure in measures)]
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
        "maps": [{"name": name, "column": column, "limits": shown.limits[column]} for column, name in columns.items()],
        "measures": measures,
        "image_numbers": list(IMAGE_NUMBERS),
        "grid": list(grid),
        "centres": [[axis.first, axis.step] for axis in (placement.rows, placement.columns)],
        "colormap": style.looks.colormap,
        "colours": _colours(style.looks.colormap),
        "alpha": style.looks.alpha,
        "thumb_height": style.thumb_height,
        "rows": {name: [_short(value) for value in table[name].to_pylist()] for name in (*TEXTS, *numbers)},
    }


def _colours(colormap: str) -> list[str]:
    """The 256 colours from low to high, as #rrggbb."""
    levels = apply_colormap(np.linspace(0, 1, 256, dtype=np.float32)[None], colormap)[0]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in levels.tolist()]


def _short(value: object) -> object:
    """A number as JSON has it: six digits, null where it is not finite; other values as they are."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
