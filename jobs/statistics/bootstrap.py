"""Bootstrap intervals over identities: images of one person are not independent, so whole identities are redrawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from jobs.statistics.partial import Partial
from jobs.statistics.question import JUNK
from jobs.statistics.resamples import EDGES, redraws

_KEPT_BYTES = 64 << 20
_RATIO_BYTES = 128 << 20

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """`resamples` redraws of `identities` identities, the same for every group and measure; see `redraws`."""

    identities: int
    resamples: int
    seed: int
    _kept: list[NDArray[np.uint16]] = field(default_factory=list, init=False, repr=False, compare=False)

    def weights(self) -> Iterator[NDArray[np.uint16]]:
        """(r, identities) how often each identity was drawn, block by block of resamples; kept if they are few."""
        if self._kept:
            yield from self._kept
            return
        for weights in redraws(self.identities, self.resamples, self.seed):
            if 2 * self.resamples * self.identities <= _KEPT_BYTES:
                self._kept.append(weights)
            yield weights


def intervals(
    draws: Draws, group: Ints, identity: Ints, sums: NDArray[np.floating], counts: NDArray[np.floating], groups: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % percentile intervals (Efron 1979) of sum / count in each group: low and high, each (G, V).

    group, identity (C,): the group, and the index below `draws.identities`, of each cluster. sums (C, V), counts
    (C, V) or (C, 1). NaN where a group has fewer than two identities with a value: one tells nothing of the spread.
    """
    rows = _rows_of(group, groups)
    low, high = (np.full((groups, sums.shape[1]), np.nan) for _ in range(2))
    several = [g for g in range(groups) if len(rows[g]) > 1]
    # Many groups are taken some at a time; the draws come from a seed, so each time they are the same.
    step = max(1, _RATIO_BYTES // (8 * draws.resamples * max(1, sums.shape[1])))
    for start in range(0, len(several), step):
        some = several[start : start + step]
        ratios = _ratios(draws, [rows[g] for g in some], identity, sums, counts)
        for g, values in zip(some, ratios, strict=True):
            enough = np.broadcast_to((counts[rows[g]] > 0).sum(axis=0) >= 2, (sums.shape[1],))
            if enough.any():
                kept = values[:, enough]
                percentile = np.nanpercentile if np.isnan(kept).any() else np.percentile  # the first is slow
                low[g, enough], high[g, enough] = percentile(kept, EDGES, axis=0)
    return low, high


def _ratios(
    draws: Draws, rows: list[Ints], identity: Ints, sums: NDArray[np.floating], counts: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(groups, resamples, V): sum / count in each resample; NaN where none of a group's identities was drawn."""
    width = sums.shape[1]
    ratios = np.empty((len(rows), draws.resamples, width))
    both = np.concatenate([sums, counts.astype(sums.dtype, copy=False)], axis=1)
    for g, chosen in enumerate(rows):
        who, values = identity[chosen], both[chosen]
        if dense := 2 * len(chosen) > draws.identities:  # zeros for who is not there cost less than picking columns
            values = np.zeros((draws.identities, values.shape[1]), sums.dtype)
            values[who] = both[chosen]
        done = 0
        for weights in draws.weights():
            found = (weights if dense else weights[:, who]).astype(sums.dtype) @ values
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios[g, done : done + len(weights)] = found[:, :width] / found[:, width:]
            done += len(weights)
    return ratios


def _rows_of(group: Ints, groups: int) -> list[Ints]:
    order = np.argsort(group, kind="stable")
    return np.split(order, np.searchsorted(group[order], np.arange(1, groups)))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The numbers of a run. Legend: G groups, K maps, V measures in the order of MEASURED.

    value, low, high, n_images, n_identities (G, K, V); images (G,); zero, not_finite (G, K). mean, std, mean_low,
    mean_high: map -> (G, h, w), of maps that were normalised to sum 1; std over images (ddof 0). NaN: not defined.
    """

    value: Doubles
    low: Doubles
    high: Doubles
    n_images: Ints
    n_identities: Ints
    images: Ints
    zero: Ints
    not_finite: Ints
    mean: dict[str, Doubles]
    std: dict[str, Doubles]
    mean_low: dict[str, Doubles]
    mean_high: dict[str, Doubles]

    @property
    def good(self) -> Ints:
        """(G, K) how many maps have a shape: neither all zero nor with what is no number."""
        return self.images[:, None] - self.zero - self.not_finite


def summarise(part: Partial, resamples: int) -> Summary:
    """Means and their intervals. Junk counts as one identity in the redraws, and as none in n_identities."""
    groups, seed = part.groups.num_rows, part.question.seed
    pids, identity = np.unique(part.pid, return_inverse=True)
    draws = Draws(len(pids), resamples, seed)
    shape = (groups, *part.sums.shape[1:])
    flat = (len(part.pid), -1)
    low, high = intervals(draws, part.group, identity, part.sums.reshape(flat), part.counts.reshape(flat), groups)
    sums, counts = _by_group(part.sums, part.group, groups), _by_group(part.counts, part.group, groups)
    good = _by_group(part.good, part.group, groups)
    people = (part.counts > 0) & (part.pid != JUNK)[:, None, None]
    maps: dict[str, dict[str, Doubles]] = {kind: {} for kind in ("mean", "std", "mean_low", "mean_high")}
    for k, name in enumerate(part.question.maps):
        number = good[:, k, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = _by_group(part.share[name], part.group, groups, np.float64) / number
            variance = np.maximum(part.spread[name] / number - (mean - 1 / max(1, mean.shape[1])) ** 2, 0)
        each = part.good[:, k, None].astype(np.float64)
        edges = intervals(draws, part.group, identity, part.share[name], each, groups)
        for kind, values in zip(maps, (mean, np.sqrt(variance), *edges), strict=True):
            maps[kind][name] = values.reshape(groups, *part.grids[name])
    with np.errstate(divide="ignore", invalid="ignore"):
        value = sums / counts
    return Summary(
        value=value,
        low=low.reshape(shape),
        high=high.reshape(shape),
        n_images=counts.astype(np.int64),
        n_identities=_by_group(people.astype(np.int64), part.group, groups),
        images=_by_group(part.images, part.group, groups),
        zero=_by_group(part.zero, part.group, groups),
        not_finite=_by_group(part.not_finite, part.group, groups),
        **maps,
    )


def _by_group(values: NDArray[Any], group: Ints, groups: int, dtype: DTypeLike | None = None) -> NDArray[Any]:
    total = np.zeros((groups, *values.shape[1:]), dtype or values.dtype)
    for g, rows in enumerate(_rows_of(group, groups)):
        total[g] = values[rows].sum(axis=0, dtype=total.dtype)
    return total
