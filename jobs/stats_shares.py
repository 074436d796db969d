"""Maps as shares of their mass, many at a time and in float32: fast where `cam.measures` is exact (no torch)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cam.measures import effective_areas

GOOD, ZERO, NOT_FINITE = 0, 1, 2  # a map has a shape, or is all zero, or holds what is no number
_BLOCK = 16

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def normalise(maps: Floats) -> tuple[Floats, NDArray[np.int8]]:
    """(n, h, w) -> (n, M) shares that sum to 1, in place where possible, and (n,) good, all zero, or not finite.

    Maps that are not good become zeros.
    """
    flat = maps.reshape(len(maps), -1)
    mass = flat @ np.ones(flat.shape[1], np.float32)
    state = np.where(np.isfinite(mass), np.where(mass > 0, GOOD, ZERO), NOT_FINITE).astype(np.int8)
    if (state != GOOD).any():
        flat[state != GOOD] = 0
        mass = np.where(state == GOOD, mass, np.float32(1))
    flat *= (1 / mass)[:, None]
    return flat, state


def held_area(share: Floats, part: float) -> Doubles:
    """(n, M) float32 shares -> (n,) the smallest share of patches that holds `part` of the mass.

    The same as `cam.measures.effective_areas`, which decides where float32 leaves a doubt. Counts, from the smallest
    patch on, how many fit into 1 - part: whole blocks first, since a running sum along a row is slow.
    """
    count, patches = share.shape
    blocks = -(-patches // _BLOCK)
    missing = blocks * _BLOCK - patches
    # Zeros in front change no sum; there are none on the usual grids.
    rising = np.pad(share, ((0, 0), (missing, 0))) if missing else share.copy()
    rising[:, missing:].sort(axis=1)
    ends = np.arange(1, blocks + 1) * _BLOCK
    edge = (np.arange(blocks * _BLOCK) < ends[:, None]).astype(np.float32) @ rising.T
    low, high = np.float32(1 - part - 4e-6), np.float32(1 - part + 4e-6)  # between them float32 cannot tell
    block = np.minimum((edge <= low).sum(axis=0), blocks - 1)
    at = np.arange(count)
    fine = np.tri(_BLOCK, dtype=np.float32) @ rising.reshape(count, blocks, _BLOCK)[at, block].T
    fine += np.where(block > 0, edge[block - 1, at], np.float32(0))
    inside = (fine <= low).sum(axis=0)
    left = block * _BLOCK + inside - missing
    area = (patches - np.maximum(left, 0)) / patches
    doubt = inside != (fine <= high).sum(axis=0)
    if doubt.any():
        exact = share[doubt].astype(np.float64)
        area[doubt] = effective_areas(exact / exact.sum(axis=1, keepdims=True), [part])[0]
    return area
