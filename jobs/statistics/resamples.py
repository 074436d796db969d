"""Bootstrap redraws of whole identities, since images of one person are not independent (numpy only)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
EDGES = (50 * (1 - LEVEL), 50 * (1 + LEVEL))  # percentiles at the two ends of an interval
_BLOCK_BYTES = 16 << 20  # of a block's weights as float32

Doubles = NDArray[np.float64]


def redraws(identities: int, resamples: int, seed: int, width: int = 0) -> Iterator[NDArray[np.uint16]]:
    """(r, identities) blocks: how often each identity is drawn, with replacement, in each of r resamples.

    Resample n is `default_rng(seed).integers(identities, size=identities)`, the n-th such call. `width` is the number
    of values that the caller keeps for each resample, if that is more than one for each identity.
    """
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_BYTES // (4 * max(1, identities, width)))
    for start in range(0, resamples, block):
        weights = np.empty((min(block, resamples - start), identities), np.uint16)
        for row in weights:
            row[:] = np.bincount(generator.integers(identities, size=identities), minlength=identities)
        yield weights


def mean_over_identities(
    values: Doubles, identities: NDArray[np.int64], *, resamples: int = 2000, seed: int = 0
) -> tuple[Doubles, Doubles, Doubles]:
    """(N, V) values, (N,) identities -> mean (V,) over images, and the ends of its 95 % interval.

    Percentile bootstrap (Efron 1979). NaN values are passed over; the interval is NaN with fewer than two identities.
    """
    people, who = np.unique(identities, return_inverse=True)
    known = np.isfinite(values)
    sums, counts = (np.zeros((len(people), values.shape[1])) for _ in range(2))
    np.add.at(sums, who, np.where(known, values, 0))
    np.add.at(counts, who, known)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums.sum(axis=0) / counts.sum(axis=0)
        if len(people) < 2 or not resamples:
            return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        drawn = [w @ sums / (w @ counts) for w in redraws(len(people), resamples, seed)]
    enough = (counts > 0).sum(axis=0) >= 2
    low, high = np.nanpercentile(np.where(enough, np.concatenate(drawn), 0), EDGES, axis=0)
    return mean, np.where(enough, low, np.nan), np.where(enough, high, np.nan)
