"""Do the maps of one image agree? Correlations and common top patches, in each group.

Legend: N images, M patches, G groups. Maps are shares of mass; a map without mass is NaN and is left out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from jobs.arrays import Float64Array, FloatArray, Int64Array
from jobs.identity import NOBODY
from jobs.progress import told
from jobs.statistics.correlation import mean_ranks, pearson
from jobs.statistics.intervals.bootstrap import Means, intervals
from jobs.statistics.intervals.resamples import Resamples
from jobs.statistics.parts.partial import Partial
from jobs.tables import none_if_nan

AGREEMENTS = ("pearson", "spearman", "top20")
TOP = 0.2
_ROWS = 2048


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How two maps of an image agree in one group, on average; None: not defined.

    `group` is a place among the groups, `measure` one of AGREEMENTS. low and high are the ends of the 95 % interval.
    """

    group: int
    map_a: str
    map_b: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    n_images: int
    n_identities: int


def agreement_of(a: FloatArray, b: FloatArray) -> Float64Array:
    """(N, M), (N, M) -> (N, 3): the numbers of AGREEMENTS.

    Pearson; Spearman, in which ties share their mean rank; and the share of the top 20 % of patches that both maps
    have in common, in which the patch further up and left wins a tie. NaN for a map without mass, and for a
    correlation with a constant map.
    """
    found = np.full((len(a), len(AGREEMENTS)), np.nan)
    good = np.asarray(np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1))
    for start in range(0, len(a), _ROWS):  # ranks take ten times the memory of the maps
        rows = start + np.flatnonzero(good[start : start + _ROWS])
        x, y = a[rows].astype(np.float64), b[rows].astype(np.float64)
        found[rows, 0] = pearson(x, y)
        found[rows, 1] = pearson(mean_ranks(x), mean_ranks(y))
        found[rows, 2] = top_overlap(x, y)
    return found


def top_overlap(a: Float64Array, b: Float64Array) -> Float64Array:
    """(N, M), (N, M) -> (N,) |top(a) & top(b)| / k, with k = 20 % of the patches, rounded."""
    k = max(1, round(TOP * a.shape[1]))
    tops = []
    for values in (a, b):
        chosen = np.zeros(values.shape, bool)
        np.put_along_axis(chosen, np.argsort(-values, axis=1, kind="stable")[:, :k], True, axis=1)
        tops.append(chosen)
    return np.asarray((tops[0] & tops[1]).sum(axis=1) / k)


@told("comparing the maps of each image")
def agreements(part: Partial, resamples: int) -> list[Agreement]:
    """One entry per pair of maps of one size, group and measure, over the sampled images."""
    sample, maps = part.sample, part.question.maps
    clusters, cluster = np.unique(np.stack([sample.group, sample.identity], axis=1), axis=0, return_inverse=True)
    found: list[Agreement] = []
    for a, b in itertools.combinations(range(len(maps)), 2):
        if part.grids[maps[a]] != part.grids[maps[b]]:
            continue
        values = agreement_of(sample.share[:, a], sample.share[:, b])
        good = np.isfinite(values)
        sums, counts = (np.zeros((len(clusters), len(AGREEMENTS))) for _ in range(2))
        np.add.at(sums, cluster.ravel(), np.where(good, values, 0))
        np.add.at(counts, cluster.ravel(), good)
        found += _in_groups(part, (maps[a], maps[b]), clusters, sums, counts, resamples)
    return found


def _in_groups(
    part: Partial,
    pair: tuple[str, str],
    clusters: Int64Array,
    sums: Float64Array,
    counts: Float64Array,
    resamples: int,
) -> list[Agreement]:
    """Of one pair of maps: clusters (C, 2) are group and identity; sums and counts (C, 3)."""
    group, identity = clusters.T
    people, place = np.unique(identity, return_inverse=True)
    drawn = Resamples(len(people), resamples, part.question.seed)
    ((low, high),) = intervals(drawn, group, place, [Means(sums, counts)], part.groups.num_rows)
    found = []
    for g in range(part.groups.num_rows):
        here = group == g
        for m, measure in enumerate(AGREEMENTS):
            number = int(counts[here, m].sum())
            found.append(
                Agreement(
                    group=g,
                    map_a=pair[0],
                    map_b=pair[1],
                    measure=measure,
                    value=float(sums[here, m].sum() / number) if number else None,
                    low=none_if_nan(low[g, m]),
                    high=none_if_nan(high[g, m]),
                    n_images=number,
                    n_identities=int((here & (counts[:, m] > 0) & (identity != NOBODY)).sum()),
                )
            )
    return found
