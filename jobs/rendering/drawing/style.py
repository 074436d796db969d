"""The styles of pictures of a run, and how one picture is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cam.overlay import Map, Picture, Range
from cam.placement import GridPlacement
from jobs.rendering.looks import Looks
from jobs.rendering.panels import legend

OVERLAY, HEATMAP, PANEL, SHEET, IDENTITY, RANKED = "overlay", "heatmap", "panel", "sheet", "identity", "ranked"
DIFF = "diff"
STYLES = (OVERLAY, HEATMAP, PANEL, SHEET, IDENTITY, RANKED, DIFF)
ONE_MAP_EACH = (OVERLAY, HEATMAP)  # a picture shows one map of one image
ONE_IMAGE_EACH = (*ONE_MAP_EACH, PANEL, DIFF)
DEFAULT_HEIGHT = 256  # of an image inside of a composition
_LEGEND_HEIGHT = 72  # the least
Size = tuple[int, int | None]  # (height, width) in pixels; without a width, by the image's proportions


@dataclass(frozen=True, kw_only=True)
class OtherRun:
    """The run B whose maps are drawn beside those of the run: its folder, its fingerprint, where its patches lie."""

    root: Path
    fingerprint: str
    placement: GridPlacement | None = None


@dataclass(frozen=True, kw_only=True)
class PictureStyle:
    """How the pictures of one request are drawn.

    `kind` is one of STYLES. `size` is the size of each image, None for its own. `limits` maps a map's name to the ends
    of its colour scale, None where each map has its own. `placement` says where a map's patches lie on its image, None
    for equal cells. `other` is the run that the style `diff` compares with.
    """

    kind: str
    maps: tuple[str, ...]
    looks: Looks = field(default_factory=Looks)
    size: Size | None = None
    limits: Mapping[str, Range | None] = field(default_factory=dict)
    placement: GridPlacement | None = None
    other: OtherRun | None = None

    def overlay(self, image: Picture, map: Map, name: str) -> Picture:
        """(H, W, 3) the map over the image."""
        return self.looks.overlay(image, map, self.limits.get(name), self.placement)

    def heatmap(self, image: Picture, map: Map, name: str) -> Picture:
        """(H, W, 3) the map alone, as large as the image."""
        return self.looks.heatmap(map, (image.shape[0], image.shape[1]), self.limits.get(name), self.placement)

    def legends(self, name: str, height: int) -> list[Picture]:
        """The legend of the map's colour scale where other maps have the same scale; else nothing."""
        limits = self.limits.get(name)
        return [] if limits is None else [legend(limits, max(height, _LEGEND_HEIGHT), colormap=self.looks.colormap)]
