"""`promptsg gallery`: a folder with one page of any selection of images and their maps, for a browser alone (no torch).

The page is `index.html`; `data.js` holds the rows, `thumbs/` pictures and `maps/` the maps themselves, in parts of
100 rows. Scripts instead of JSON, since a page that was opened as a file may not fetch one.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.errors import UserError
from jobs.rendering.gallery_pictures import PART, Style, draw_all, make_parts, script_json, withdraw_page

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from cam.overlay import Range
    from jobs.runs.run import Run

IMAGE_NUMBERS = ("pid", "camid", "seq", "frame", "width", "height", "predicted", "score", "probability")
TEXTS = ("key", "shard", "split")
_OURS = frozenset({"index.html", "gallery.css", "gallery.js", "data.js", "thumbs", "maps"})
_MANY = 5


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a gallery holds: `matching` rows fit the selection, `left_out` says why some of them have no picture."""

    images: int
    matching: int
    left_out: dict[str, int]

    @property
    def cut(self) -> int:
        """Rows beyond the limit."""
        return self.matching - self.images - sum(self.left_out.values())


@click.command(name="gallery", short_help="Write a page to look through images and maps in a browser.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The folder to write.")
@click.option("--where", help="SQL over the metadata's columns, such as 'pid = 12 AND camid = 3'.")
@click.option("--order-by", help="SQL such as 'mim_attention_entropy DESC'.")
@click.option("--sample", type=click.IntRange(min=1), help="So many images drawn at random.")
@click.option("--seed", default=0, show_default=True, help="Of --sample.")
@click.option("--limit", default=2000, show_default=True, type=click.IntRange(min=1), help="Most images.")
@click.option("--map", "maps", multiple=True, help="A stored map; repeatable.  [default: all]")
@click.option("--colormap", default="turbo", show_default=True, help="The colours, by OpenCV's name.")
@click.option("--alpha", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="The map's share.")
@click.option("--scale", default="image", show_default=True, type=click.Choice(["image", "shared", "percentile"]),
              help="What the colours' ends mean: each map's own extremes, or those of all.")  # fmt: skip
@click.option("--thumb-height", default=128, show_default=True, type=click.IntRange(16, 2048), help="In pixels.")
@click.option("--shards-root", help="The folder or address where the shards are now, if they moved.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one per core]")
@click.option("--overwrite", is_flag=True, help="Write over a gallery that is there.")
def command(
    run: Path, output: Path, limit: int, shards_root: str | None, workers: int | None, overwrite: bool, **options: Any
) -> None:
    """Write a folder whose index.html shows images and maps of RUN: filter, sort, switch maps, click for the panel.

    It needs no server and nothing outside of the folder. What is not ok, or has a map that is not finite, is left out.

    \b
    Example:
      promptsg gallery RUN --where "split = 'query'" --order-by 'mim_attention_entropy' --output look
    """
    from jobs.runs.run import open_run

    opened = open_run(run)
    style = Style(
        maps=opened.choose_maps(options["maps"]) or opened.maps,
        **{name: options[name] for name in ("colormap", "alpha", "scale", "thumb_height")},
    )
    selection = {name: options[name] for name in ("where", "order_by", "sample", "seed")}
    workers = workers or len(os.sched_getaffinity(0))
    report = write_gallery(opened, output, selection, style, limit, shards_root, workers, overwrite)
    click.echo(_describe(report, output, limit))


def write_gallery(
    run: Run,
    output: Path,
    selection: dict[str, Any],
    style: Style,
    limit: int = 2000,
    shards_root: str | None = None,
    workers: int = 1,
    overwrite: bool = False,
) -> Report:
    """Writes the folder `output`, its index.html last, so that a page that is there is whole.

    Raises UserError on a selection without images, a folder that holds other files, and what reading images raises.
    """
    from jobs.atomic import write_whole
    from jobs.shards.random_access import ROW_COLUMNS, SourceImages, locate

    check_folder(output, overwrite)
    table, report = select_images(run, selection, style, limit)
    maps, table, report = _finite_maps(run, table, style, report)
    if not table.num_rows:
        raise UserError(f"no image of {run.layout.root} can be shown: {_left_out(report) or 'nothing matches --where'}")
    limits = _limits(maps, style)
    page = page_data(run, table, selection, style, limits, report)
    rows = table.select(ROW_COLUMNS).to_pylist()
    with tempfile.TemporaryDirectory(prefix="promptsg-") as scratch:
        images = SourceImages(locate(run, rows, shards_root, Path(scratch)))
        kept = set(withdraw_page(output))
        kept -= set(draw_all(make_parts(rows, maps, limits), output, style, images, workers))
    for path in kept:  # of a larger gallery that was here before
        path.unlink()
        with contextlib.suppress(OSError):  # others are still in there
            path.parent.rmdir()
    write_whole(output / "data.js", f"window.GALLERY = {script_json(page)};\n".encode())
    for name in ("gallery.css", "gallery.js", "index.html"):
        write_whole(output / name, _template(name))
    return report


def check_folder(output: Path, overwrite: bool) -> None:
    """Raises UserError where `output` holds a gallery that may not be overwritten, or anything that is not ours."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; name a folder")
    there = {path.name for path in output.iterdir() if not path.name.endswith(".tmp")} if output.is_dir() else set()
    if foreign := sorted(there - _OURS):
        shown = ", ".join(foreign[:_MANY]) + (", ..." if len(foreign) > _MANY else "")
        raise UserError(f"--output {output} holds other files ({shown}); name a new or an empty folder")
    for name in ("thumbs", "maps"):
        if (output / name).is_symlink():
            raise UserError(f"{output / name} is a link and leads out of the folder; name a new or an empty folder")
    if "index.html" in there and not overwrite:
        raise UserError(f"there is a gallery in {output}; give --overwrite or another --output")


def page_data(
    run: Run, table: pa.Table, selection: dict[str, Any], style: Style, limits: dict[str, Range | None], report: Report
) -> dict[str, Any]:
    """All that the page knows: how it came about, the maps and their colour scales, and the rows column by column."""
    from cam.measures import MEASURES
    from cam.names import column_of

    columns = [column_of(name) for name in style.maps]
    measures = [measure for measure in MEASURES if f"{columns[0]}_{measure}" in run.schema.names]
    numbers = [*IMAGE_NUMBERS, *(f"{column}_{measure}" for column in columns for measure in measures)]
    return {
        "run": run.layout.root.resolve().name,
        "fingerprint": run.manifest.fingerprint,
        "where": selection.get("where"),
        "order_by": selection.get("order_by"),
        "sample": selection.get("sample"),
        "images": report.images,
        "matching": report.matching,
        "cut": report.cut,
        "left_out": report.left_out,
        "part": PART,
        "maps": [
            {"name": name, "column": column, "limits": limits[column]}
            for name, column in zip(style.maps, columns, strict=True)
        ],
        "measures": measures,
        "image_numbers": list(IMAGE_NUMBERS),
        "grid": [int(table["grid_h"][0].as_py()), int(table["grid_w"][0].as_py())],
        "colormap": style.colormap,
        "colours": _colours(style.colormap),
        "alpha": style.alpha,
        "thumb_height": style.thumb_height,
        "rows": {name: [_short(value) for value in table[name].to_pylist()] for name in (*TEXTS, *numbers)},
    }


def select_images(run: Run, selection: dict[str, Any], style: Style, limit: int) -> tuple[pa.Table, Report]:
    """At most `limit` rows that have all the maps, and counts of all rows that match."""
    from cam.names import MapName
    from jobs.runs.query import RowSelection, count_by_status, select_rows
    from jobs.shards.samples import KEPT, OK

    shown = [OK] if any(MapName.parse(name).needs_target for name in style.maps) else sorted(KEPT)
    statuses = ", ".join(f"'{status}'" for status in shown)
    table = select_rows(run, RowSelection(**selection, limit=limit), also=f"status IN ({statuses})")
    found = count_by_status(run, selection.get("where"))
    count = sum(found.pop(status, 0) for status in shown)
    if selection.get("sample"):
        count = min(count, selection["sample"])
    return table, Report(images=table.num_rows, matching=count + sum(found.values()), left_out=found)


def _finite_maps(
    run: Run, table: pa.Table, style: Style, report: Report
) -> tuple[dict[str, NDArray[np.float32]], pa.Table, Report]:
    """column -> (N, h, w) for the rows whose maps are all finite, those rows, and the others counted."""
    import numpy as np

    from cam.names import column_of

    maps = {column_of(name): run.maps_of(name, table) for name in style.maps}
    finite = np.logical_and.reduce([np.isfinite(values).all(axis=(1, 2)) for values in maps.values()])
    left_out = Counter(report.left_out)
    if not finite.all():
        left_out["map_not_finite"] += int((~finite).sum())
        table = table.filter(finite)
        maps = {column: values[finite] for column, values in maps.items()}
    return maps, table, Report(images=table.num_rows, matching=report.matching, left_out=dict(left_out))


def _limits(maps: dict[str, NDArray[np.float32]], style: Style) -> dict[str, Range | None]:
    from cam.overlay import range_of

    return {column: range_of(values, style.scale) for column, values in maps.items()}


def _colours(colormap: str) -> list[str]:
    """The 256 colours from low to high, as #rrggbb. Raises CamError on an unknown name."""
    import numpy as np

    from cam.overlay import apply_colormap

    levels = apply_colormap(np.linspace(0, 1, 256, dtype=np.float32)[None], colormap)[0]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in levels.tolist()]


def _short(value: Any) -> Any:
    """A number as JSON has it: six digits, null for what is not finite."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _template(name: str) -> bytes:
    from importlib.resources import files

    return (files("configs") / "gallery" / name).read_bytes()


def _left_out(report: Report) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(report.left_out.items()))


def _describe(report: Report, output: Path, limit: int) -> str:
    lines = [f"{report.images} images in {output / 'index.html'}"]
    if report.left_out:
        lines.append(f"left out: {_left_out(report)}")
    if report.cut:
        lines.append(
            f"{report.cut} more images match and are not in it: --limit is {limit}; raise it, or narrow with --where "
            "or --sample"
        )
    return "\n".join(lines)
