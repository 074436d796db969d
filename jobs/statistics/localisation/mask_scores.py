"""How well maps lie on a mask: mass ratio, pointing and AUC (numpy).

Legend: B images, h w grid. `share` (B, h, w) is the part of each patch that the mask covers, 0 to 1. Maps are >= 0; the
scores of one without mass are NaN.
"""

from __future__ import annotations

import numpy as np

from cam.placement import GridPlacement
from jobs.arrays import BoolArray, Float64Array, FloatArray


def covered_share(mask: BoolArray, placement: GridPlacement) -> Float64Array:
    """(H, W) mask -> (h, w): the part of each patch that is covered, also where patches overlap."""
    down, across = (
        axis.covered(np.arange(pixels + 1) / pixels)
        for axis, pixels in zip((placement.rows, placement.columns), mask.shape, strict=True)
    )
    return np.asarray(down @ mask.astype(np.float64) @ across.T)


def mass_ratio(maps: FloatArray, share: Float64Array) -> Float64Array:
    """(B, h, w), (B, h, w) -> (B,): the map's mass on the mask over the mask's share of the area; 1 is chance."""
    mass = maps.sum(axis=(1, 2), dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(mass > 0, (maps * share).sum(axis=(1, 2)) / mass, np.nan)
        return np.asarray(inside / share.mean(axis=(1, 2)))


def pointing(maps: FloatArray, share: Float64Array) -> Float64Array:
    """(B, h, w), (B, h, w) -> (B,): 1 if the map's highest patch is covered by half or more, else 0; ties are averaged.

    The pointing game (Zhang et al. 2016, arXiv:1608.00507) at the resolution of the patches.
    """
    flat, covered = maps.reshape(len(maps), -1), share.reshape(len(maps), -1) >= 0.5
    highest = flat == flat.max(axis=1, keepdims=True)
    found = (covered * highest).sum(axis=1) / highest.sum(axis=1)
    return np.where(flat.max(axis=1) > 0, found, np.nan)


def mask_auc(maps: FloatArray, share: Float64Array) -> Float64Array:
    """(B, h, w), (B, h, w) -> (B,): the probability that a point on the mask has a higher value than one beside it.

    The area under the ROC curve over all points of the image, values constant in each patch, ties counted half.
    """
    return np.array([_auc(one.ravel(), part.ravel()) for one, part in zip(maps, share, strict=True)])


def _auc(values: FloatArray, positive: Float64Array) -> float:
    if not values.max() > 0:
        return float("nan")
    _, level = np.unique(values, return_inverse=True)
    on = np.bincount(level, positive)
    off = np.bincount(level, 1 - positive)
    below = np.cumsum(off) - off
    return float((on * (below + off / 2)).sum() / (on.sum() * off.sum())) if on.sum() * off.sum() else float("nan")
