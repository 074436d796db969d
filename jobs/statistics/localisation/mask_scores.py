"""How well maps lie on a mask: share of mass, its ratio to the area, pointing and AUC (numpy).

Legend: B images, h w grid, M = h*w patches. `share` (B, h, w) is the part of each patch that the mask covers, 0 to 1; a
patch is on the mask where that is more than half. Maps are >= 0; the scores of one without mass are NaN. One map
(1, h, w) may stand for all images.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cam.placement import AxisPlacement, GridPlacement
from jobs.arrays import BoolArray, Float64Array, FloatArray
from jobs.statistics.correlation import mean_ranks
from jobs.statistics.loops import LARGEST, LEAST


def covered_share(mask: BoolArray, placement: GridPlacement) -> Float64Array:
    """(H, W) mask -> (h, w): the part of each patch that is covered, also where patches overlap.

    The mask may have any size: its pixels are equal parts of the image.
    """
    height, width = mask.shape
    return np.asarray(_covered(placement.rows, height) @ mask.astype(np.float64) @ _covered(placement.columns, width).T)


@lru_cache(maxsize=64)
def _covered(axis: AxisPlacement, pixels: int) -> Float64Array:
    """(n, pixels): the part of each patch that lies in each pixel. Most masks have one size."""
    return axis.covered(np.arange(pixels + 1) / pixels)


def mass_on(maps: FloatArray, share: FloatArray) -> Float64Array:
    """(B, h, w), (B, h, w) -> (B,): the share of the map's mass that is on the mask, 0 to 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = (maps * share).sum(axis=(1, 2), dtype=np.float64)
        return np.where(has_mass(maps), inside / maps.sum(axis=(1, 2), dtype=np.float64), np.nan)


def mass_ratio(maps: FloatArray, share: FloatArray) -> Float64Array:
    """(B, h, w), (B, h, w) -> (B,): `mass_on` over the mask's share of the area, the mean of `share`; 1 is chance."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(mass_on(maps, share) / share.mean(axis=(1, 2), dtype=np.float64))


def pointing(maps: FloatArray, share: FloatArray) -> Float64Array:
    """(B, h, w), (B, h, w) -> (B,): 1 if the map's highest patch is on the mask, else 0; ties are averaged.

    The pointing game (Zhang et al. 2016, arXiv:1608.00507) at the resolution of the patches. NaN where no patch is on
    the mask.
    """
    flat, on = _flat(maps), _on(share)
    highest = flat == flat.max(axis=1, keepdims=True)
    found = (on * highest).sum(axis=1) / np.maximum(highest.sum(axis=1), 1)
    return np.where(has_mass(maps) & on.any(axis=1), found, np.nan)


def mask_auc(maps: FloatArray, share: FloatArray) -> Float64Array:
    """(B, h, w), (B, h, w) -> (B,): the probability that a patch on the mask has a higher value than one beside it.

    The area under the ROC curve, ties counted half. NaN where all patches are on the mask, or none.
    """
    on, good = _on(share), has_mass(maps)
    ranks = mean_ranks(np.where(good[:, None], _flat(maps), 0).astype(np.float64))
    inside = on.sum(axis=1)
    outside = on.shape[1] - inside
    above = (on * ranks).sum(axis=1) - inside * (inside + 1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(good & (inside * outside > 0), above / (inside * outside), np.nan)


def has_mass(maps: FloatArray) -> BoolArray:
    """(B, h, w) -> (B,) whether a map has a shape: neither all zero nor with a non-finite value."""
    mass = maps.sum(axis=(1, 2), dtype=np.float64)
    return np.asarray((mass >= LEAST) & (mass <= LARGEST))


def _on(share: FloatArray) -> BoolArray:
    """(B, M) whether a patch is on the mask."""
    return np.asarray(_flat(share) > 0.5)


def _flat(maps: FloatArray) -> FloatArray:
    """(B, h, w) -> (B, M), also of no map."""
    return maps.reshape(len(maps), maps.shape[1] * maps.shape[2])
