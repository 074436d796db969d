"""How maps become colours: the settings that every command with pictures shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cam.overlay import (
    DEFAULT_ALPHA,
    DEFAULT_COLORMAP,
    FADED_ALPHA,
    Map,
    Picture,
    Range,
    apply_colormap,
    heatmap,
    overlay_heatmap,
    range_of,
    resize_map,
)
from cam.placement import GridPlacement


@dataclass(frozen=True, kw_only=True)
class Looks:
    """How maps are coloured, scaled and enlarged.

    `colormap` is a name of OpenCV's. With `fade` an overlay is as opaque as
    the map is high, so that the image shows where it is low. `alpha` is the map's share of an overlay, from 0 to 1, at
    its highest value where it fades; None is 0.8 then, else 0.5. `scale` says what the ends
    of the colour scale are: `image`, the extremes of each map; `shared`, the extremes of all maps; `percentile`, the
    1st and 99th percentiles of all maps. `upsample` is `bilinear`, `nearest` or `bicubic`.

    Raises CamError on an unknown name, before anything is read or drawn.
    """

    colormap: str = DEFAULT_COLORMAP
    alpha: float | None = None
    fade: bool = True
    scale: str = "image"
    upsample: str = "bilinear"

    def __post_init__(self) -> None:
        one_value = np.zeros((1, 1), np.float32)
        apply_colormap(one_value, self.colormap)
        resize_map(one_value, (1, 1), self.upsample)
        range_of(one_value[None], self.scale)

    @property
    def share(self) -> float:
        """The map's share of an overlay, at its highest value where the overlay fades."""
        if self.alpha is not None:
            return self.alpha
        return FADED_ALPHA if self.fade else DEFAULT_ALPHA

    def heatmap(
        self,
        map: Map,
        size: tuple[int, int],
        limits: Range | None = None,
        placement: GridPlacement | None = None,
    ) -> Picture:
        """(h, w) map -> (*size, 3) the map alone.

        `limits` are the ends of its colour scale, None for its own. `placement` says where its patches lie on the
        image, None for equal cells.
        """
        return heatmap(map, size, colormap=self.colormap, limits=limits, upsample=self.upsample, placement=placement)

    def overlay(
        self, image: Picture, map: Map, limits: Range | None = None, placement: GridPlacement | None = None
    ) -> Picture:
        """(H, W, 3) image and (h, w) map -> (H, W, 3) the map over the image."""
        return overlay_heatmap(
            image,
            map,
            alpha=self.share,
            fade=self.fade,
            colormap=self.colormap,
            limits=limits,
            upsample=self.upsample,
            placement=placement,
        )
