"""Bootstrap resamples of whole identities, since images of one person are not independent (numpy only)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jobs.arrays import Float64Array, Int64Array

LEVEL = 0.95
EDGES = (50 * (1 - LEVEL), 50 * (1 + LEVEL))  # percentiles at the two ends of an interval
_BLOCK_BYTES = 16 << 20  # of a block's weights as float32
_KEPT_BYTES = 256 << 20
_LARGEST = np.iinfo(np.uint8).max

Counts = NDArray[np.uint16]
KeptCounts = NDArray[np.uint8 | np.uint16]


def resample_counts(identities: int, resamples: int, seed: int, width: int = 0) -> Iterator[Counts]:
    """(r, identities) blocks: how often each identity is drawn, with replacement, in each of r resamples.

    Resample n is the n-th call of `default_rng(seed).integers(identities, size=identities)`. `width` is the number of
    values that the caller keeps for each resample, if that is more than one for each identity.
    """
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_BYTES // (4 * max(1, identities, width)))
    for start in range(0, resamples, block):
        counts = np.empty((min(block, resamples - start), identities), np.uint16)
        for row in counts:
            row[:] = np.bincount(generator.integers(identities, size=identities), minlength=identities)
        yield counts


@dataclass(frozen=True)
class Resamples:
    """`resamples` resamples of `identities` identities, the same ones each time they are gone through."""

    identities: int
    resamples: int
    seed: int
    _kept: list[KeptCounts] = field(default_factory=list, init=False, repr=False, compare=False)

    def counts(self) -> Iterator[KeptCounts]:
        """The blocks of `resample_counts`; they stay in memory if they are small: drawing takes most of the time."""
        if self._kept:
            yield from self._kept
            return
        kept: list[KeptCounts] = []
        small = self.resamples * self.identities <= _KEPT_BYTES
        for counts in resample_counts(self.identities, self.resamples, self.seed):
            if small:
                kept.append(counts.astype(np.uint8) if counts.max() <= _LARGEST else counts)
            yield counts
        self._kept.extend(kept)  # only now are they all


def mean_over_identities(
    values: Float64Array, identities: Int64Array, *, resamples: int = 2000, seed: int = 0
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """(N, V) values, (N,) identities -> mean (V,) over images, and the ends of its 95 % interval.

    `identities` are codes, as of `jobs.identity.identity_codes`; all of one code count as one identity.

    Percentile bootstrap (Efron 1979). NaN values are left out; the interval is NaN with fewer than two identities.
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
        drawn = [w @ sums / (w @ counts) for w in resample_counts(len(people), resamples, seed)]
    enough = (counts > 0).sum(axis=0) >= 2
    low, high = np.nanpercentile(np.where(enough, np.concatenate(drawn), 0), EDGES, axis=0)
    return mean, np.where(enough, low, np.nan), np.where(enough, high, np.nan)
