"""Draws a map over its image, in numpy and OpenCV only.

Pictures are uint8 RGB (H, W, 3). Maps are (h, w) on the patch grid. Sizes are (height, width). Red is high.
A `placement` says where the patches of a map lie on the image, by default in equal cells (`cam.placement`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from cam.errors import CamError
from cam.percentiles import percentiles
from cam.placement import GridPlacement
from cam.suggest import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]
Range = tuple[float, float]

SCALES = ("image", "shared", "percentile")
COLORMAPS = {
    name.removeprefix("COLORMAP_").lower(): getattr(cv2, name) for name in sorted(dir(cv2)) if name[:9] == "COLORMAP_"
}
UPSAMPLE = {"bilinear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST_EXACT, "bicubic": cv2.INTER_CUBIC}
DEFAULT_COLORMAP = "turbo"  # jet's order of colours without its false edges
DEFAULT_ALPHA = 0.5
FADED_ALPHA = 0.8  # at the map's highest value, where the overlay fades with the value


def overlay_heatmap(
    image: Picture,
    map: Map,
    *,
    alpha: float = DEFAULT_ALPHA,
    colormap: str = DEFAULT_COLORMAP,
    limits: Range | None = None,
    upsample: str = "bilinear",
    placement: GridPlacement | None = None,
    fade: bool = False,
) -> Picture:
    """(H, W, 3) image and (h, w) map -> (H, W, 3): the coloured map over the image.

    `alpha` is the map's share of the colour, from 0 to 1. With `fade` it is that at the high end of the colour scale,
    and falls with the value to 0 at the low end, so that the dark colours of low values do not cover the image.
    `limits` are the values at the ends of the colour scale, by default the map's own extremes. Raises CamError, naming
    the valid ones, on an unknown colour map or way of resizing.
    """
    height, width = image.shape[:2]
    values = resize_map(scale_map(map, limits), (height, width), upsample, placement)
    heat = apply_colormap(values, colormap)
    if not fade:
        return np.asarray(cv2.addWeighted(heat, alpha, image, 1 - alpha, 0), np.uint8)
    share = (alpha * values)[..., None]
    return np.asarray(np.rint(heat * share + image * (1 - share)), np.uint8)


def heatmap(
    map: Map,
    size: tuple[int, int],
    *,
    colormap: str = DEFAULT_COLORMAP,
    limits: Range | None = None,
    upsample: str = "bilinear",
    placement: GridPlacement | None = None,
) -> Picture:
    """(h, w) map -> (*size, 3): scaled, resized with each patch's value at the patch's centre, and coloured."""
    return apply_colormap(resize_map(scale_map(map, limits), size, upsample, placement), colormap)


def scale_map(map: Map, limits: Range | None = None) -> Map:
    """(h, w) -> (h, w) in [0, 1], from `limits` or the map's own extremes; a constant map is 0 everywhere."""
    low, high = own_range(map) if limits is None else limits
    if not high > low:
        return np.zeros(map.shape, np.float32)
    scaled: Map = np.clip((map.astype(np.float32) - low) / (high - low), 0, 1)
    return scaled


def own_range(map: Map) -> Range:
    """(smallest, largest) value of a map."""
    return float(map.min()), float(map.max())


def range_of(maps: Map, scale: str) -> Range | None:
    """(B, h, w) maps -> the two ends of their colour scale; None for the scale `image`, where each map has its own.

    `shared` takes the extremes of all maps, `percentile` their 1st and 99th percentiles. Non-finite values are left
    out. Raises CamError on an unknown scale.
    """
    if scale not in SCALES:
        raise CamError(f"unknown scale {scale!r}; scales are {', '.join(SCALES)}")
    values = maps[np.isfinite(maps)]
    if scale == "image" or not values.size:
        return None
    if scale == "shared":
        return float(values.min()), float(values.max())
    return percentiles([values])


def resize_map(
    map: Map, size: tuple[int, int], upsample: str = "bilinear", placement: GridPlacement | None = None
) -> Map:
    """(h, w) in [0, 1] -> `size`, in [0, 1] too: what bicubic resizing overshoots is cut off.

    Raises CamError on an unknown way of upsampling, and for a map that is not of the placement's grid.
    """
    if upsample not in UPSAMPLE:
        raise CamError(f"unknown way of upsampling {upsample!r}; there are {', '.join(UPSAMPLE)}")
    if placement is not None:
        placement.check(map.shape)
    if placement is None or placement.is_even:
        resized = cv2.resize(map.astype(np.float32), (size[1], size[0]), interpolation=UPSAMPLE[upsample])
    else:  # OpenCV knows equal cells only
        down, across = placement.rows.weights(size[0], upsample), placement.columns.weights(size[1], upsample)
        resized = down @ map.astype(np.float32) @ across.T
    return np.clip(resized, 0, 1)


def apply_colormap(values: Map, colormap: str = DEFAULT_COLORMAP) -> Picture:
    """(H, W) in [0, 1] -> (H, W, 3) RGB. Raises CamError on an unknown colour map, naming the nearest."""
    levels = np.rint(np.asarray(values, np.float32) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, _table(colormap)), np.uint8)


@lru_cache(maxsize=8)
def _table(colormap: str) -> Picture:
    """(256, 1, 3) RGB. OpenCV would build its table again in every call, which takes twenty times the look-up."""
    if colormap not in COLORMAPS:
        hint = did_you_mean(colormap, COLORMAPS) or "."
        raise CamError(f"unknown colour map {colormap!r}{hint} There are {', '.join(COLORMAPS)}")
    levels = np.arange(256, dtype=np.uint8).reshape(256, 1)
    return cv2.cvtColor(cv2.applyColorMap(levels, COLORMAPS[colormap]), cv2.COLOR_BGR2RGB).astype(np.uint8)


def denormalize_image(
    image: Tensor | NDArray[np.floating],
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
    std: tuple[float, float, float] = (0.5, 0.5, 0.5),
) -> Picture:
    """(3, H, W) or (B, 3, H, W) normalised floats, a tensor or an array -> uint8 RGB with channels last.

    `mean` and `std` must be those that normalised the image: a model has them as `model.config.mean` and `.std`.
    """
    pixels = np.asarray(image if isinstance(image, np.ndarray) else image.detach().float().cpu(), np.float32)
    pixels = np.moveaxis(pixels, -3, -1) * np.asarray(std, np.float32) + np.asarray(mean, np.float32)
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
