"""The outliers in the report of `promptsg stats`: pictures of them, where they can be drawn, and the command for more.

Statistics draw no images. Whoever composes a report hands in an `OutlierDrawer`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cam.names import title_of
from jobs.phrases import shown
from jobs.runs.run import Run
from jobs.statistics.outliers import Outlier
from jobs.statistics.report.draw_command import DrawCommand
from jobs.statistics.report.findings import Findings
from jobs.statistics.report.html import command_html, html_table, jpeg_html

OUTLIERS = "outliers.txt"
ImageId = tuple[str, str]  # (shard, key)


@dataclass(frozen=True, kw_only=True)
class DrawnOutlier:
    """An image beside its map over it, as the bytes of a JPEG file; `extent` says how high the map is."""

    jpeg: bytes
    extent: str


@dataclass(frozen=True, kw_only=True)
class DrawnOutliers:
    """Pictures of the first outliers by (shard, key), and why some of these are lacking, None where none is.

    `options` are the further words with which `render` and `gallery` open the same shards.
    """

    pictures: Mapping[ImageId, DrawnOutlier]
    problem: str | None = None
    options: tuple[str, ...] = ()


class OutlierDrawer(Protocol):
    """Draws outliers for the report."""

    def draw(self, run: Run, outliers: Sequence[Outlier], map: str) -> DrawnOutliers:
        """Pictures of outliers and their maps of one name; a shard that cannot be read is no error, and is told."""


def outliers_html(found: Findings, folder: Path, drawn: DrawnOutliers | None) -> str:
    """The part of a report about outliers, whose keys are in OUTLIERS in the `folder` of the results."""
    if not found.outliers:
        return ""
    drawn = drawn or DrawnOutliers(pictures={})
    name = html.escape(title_of(found.part.question.maps[0]))
    text = (
        f"Images whose {name} is farthest from their identity's mean map: the distance is the share of mass that lies "
        f"elsewhere. The keys are in {OUTLIERS}, the farthest first."
    )
    with_picture = [one for one in found.outliers if (one.shard, one.key) in drawn.pictures]
    others = [one for one in found.outliers if (one.shard, one.key) not in drawn.pictures]
    parts = [f"<h2>Outliers</h2><p class=note>{text}</p>", _commands_html(found, folder, drawn.options)]
    if drawn.problem is not None:
        parts.append(f"<p class=note>{html.escape(shown(drawn.problem))}</p>")
    if with_picture:
        cards = "".join(_card(one, drawn.pictures[one.shard, one.key]) for one in with_picture)
        parts.append(f"<div class=cards>{cards}</div>")
    if others:
        rows = [[one.key, one.shard, one.identity, f"{one.distance:.3f}"] for one in others]
        parts.append(html_table(["key", "shard", "identity", "distance"], rows))
    return "\n".join(parts)


def draw_commands(found: Findings, folder: Path, options: Sequence[str]) -> dict[str, DrawCommand]:
    """What it makes -> how to draw the outliers."""
    pictures = DrawCommand(
        run=Path(found.run),
        keys=folder / OUTLIERS,
        output=folder / "outliers",
        style="panel",
        map=found.part.question.maps[0],
        access=tuple(options),
    )
    page = replace(pictures, style=None, output=folder / "outliers-gallery")
    return {"To draw a picture of each": pictures, "For a page to filter and sort": page}


def _commands_html(found: Findings, folder: Path, options: Sequence[str]) -> str:
    commands = draw_commands(found, folder, options).items()
    return "".join(
        f"<p class=note>{html.escape(what)}:</p>{command_html(command.anywhere)}" for what, command in commands
    )


def _card(outlier: Outlier, drawn: DrawnOutlier) -> str:
    where = f"identity {outlier.identity}, {outlier.shard}"
    lines = (outlier.key, where, f"distance {outlier.distance:.3f}", drawn.extent)
    caption = "<br>".join(html.escape(shown(line)) for line in lines)
    return f"<figure>{jpeg_html(outlier.key, drawn.jpeg)}<figcaption>{caption}</figcaption></figure>"
