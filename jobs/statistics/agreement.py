"""Do the maps of one image agree, do an identity's maps agree across cameras, and which maps are odd ones out?

Legend: N images, K maps, M patches, P pairs. Maps are shares of mass; one without mass is NaN and in no number.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.statistics.bootstrap import Draws, intervals
from jobs.statistics.loops import distances
from jobs.statistics.map_slices import read_slices
from jobs.statistics.partial import Partial, Sample
from jobs.statistics.question import JUNK, NULL_CAM, Selection

AGREEMENTS = ("pearson", "spearman", "top20")
TOP = 0.2
MAX_PAIRS = 20_000
_ROWS = 2048

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]


def agreement_of(a: NDArray[np.floating], b: NDArray[np.floating]) -> Doubles:
    """(N, M), (N, M) -> (N, 3): Pearson, Spearman (ties share their mean rank), and the share of the top 20 % of
    patches that both maps have in common (the patch further up and left wins a tie). NaN for a map without mass, and a
    correlation with a constant map.
    """
    found = np.full((len(a), len(AGREEMENTS)), np.nan)
    good = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    for start in range(0, len(a), _ROWS):  # ranks take ten times the memory of the maps
        rows = start + np.flatnonzero(good[start : start + _ROWS])
        x, y = a[rows].astype(np.float64), b[rows].astype(np.float64)
        found[rows, 0] = pearson(x, y)
        found[rows, 1] = pearson(mean_ranks(x), mean_ranks(y))
        found[rows, 2] = top_overlap(x, y)
    return found


def pearson(a: Doubles, b: Doubles) -> Doubles:
    """(N, M), (N, M) -> (N,) correlation row by row; NaN where a row is constant."""
    x, y = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
    # A constant row's deviations are rounding errors, not exact zeros.
    for v, d in ((a, x), (b, y)):
        d[np.ptp(v, axis=1) == 0] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))


def mean_ranks(values: Doubles) -> Doubles:
    """(N, M) -> (N, M) ranks from 1 within each row; equal values share the mean of their ranks."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    place = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    starts = np.ones(values.shape, bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = np.ones(values.shape, bool)
    ends[:, :-1] = starts[:, 1:]
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, values.shape[1])[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=1)
    return ranks


def top_overlap(a: Doubles, b: Doubles) -> Doubles:
    """(N, M), (N, M) -> (N,) |top(a) & top(b)| / k, with k = 20 % of the patches, rounded."""
    k = max(1, round(TOP * a.shape[1]))
    tops = []
    for values in (a, b):
        chosen = np.zeros(values.shape, bool)
        np.put_along_axis(chosen, np.argsort(-values, axis=1, kind="stable")[:, :k], True, axis=1)
        tops.append(chosen)
    return (tops[0] & tops[1]).sum(axis=1) / k


def agreement_rows(part: Partial, resamples: int) -> list[dict[str, Any]]:
    """One row per group, pair of maps and measure, over the sampled images, with intervals over identities."""
    sample, maps = part.sample, part.question.maps
    keys, cluster = np.unique(np.stack([sample.group, sample.pid], axis=1), axis=0, return_inverse=True)
    cluster = cluster.ravel()
    pids, identity = np.unique(keys[:, 1], return_inverse=True)
    draws = Draws(len(pids), resamples, part.question.seed)
    rows = []
    for a, b in itertools.combinations(range(len(maps)), 2):
        if part.grids[maps[a]] != part.grids[maps[b]]:
            continue
        values = agreement_of(sample.share[:, a], sample.share[:, b])
        good = np.isfinite(values)
        sums, counts = (np.zeros((len(keys), len(AGREEMENTS))) for _ in range(2))
        np.add.at(sums, cluster, np.where(good, values, 0))
        np.add.at(counts, cluster, good)
        low, high = intervals(draws, keys[:, 0], identity, sums, counts, part.groups.num_rows)
        for g, group in enumerate(part.groups.to_pylist()):
            of = keys[:, 0] == g
            for m, measure in enumerate(AGREEMENTS):
                number = int(counts[of, m].sum())
                rows.append(
                    {
                        **group,
                        "map_a": maps[a],
                        "map_b": maps[b],
                        "measure": measure,
                        "value": sums[of, m].sum() / number if number else None,
                        "low": _or_none(low[g, m]),
                        "high": _or_none(high[g, m]),
                        "n_images": number,
                        "n_identities": int((of & (counts[:, m] > 0) & (keys[:, 1] != JUNK)).sum()),
                    }
                )
    return rows


@dataclass(frozen=True)
class Pairs:
    """Positions in the sample: images a (P,) and b (P,) of one camera pair (P, 2); `same` (P,) the same identity."""

    a: Ints
    b: Ints
    cameras: Ints
    same: NDArray[np.bool_]


def camera_pairs(pid: Ints, camid: Ints, usable: NDArray[np.bool_], seed: int, most: int = MAX_PAIRS) -> Pairs:
    """For each identity and pair of its cameras one random image of each, and in the same pair of cameras an image
    of another identity in the second: as many different pairs as same ones. Above `most`, a random `most` of each.
    """
    generator = np.random.default_rng(seed)
    images: dict[tuple[int, int], list[int]] = {}
    for index in np.flatnonzero(usable & (pid != JUNK) & (camid != NULL_CAM)).tolist():
        images.setdefault((int(pid[index]), int(camid[index])), []).append(index)
    cameras_of: dict[int, list[int]] = {}
    people_of: dict[int, list[int]] = {}
    for p, c in sorted(images):
        cameras_of.setdefault(p, []).append(c)
        people_of.setdefault(c, []).append(p)
    wanted = [(p, a, b) for p, cameras in sorted(cameras_of.items()) for a, b in itertools.combinations(cameras, 2)]
    if len(wanted) > most:
        wanted = [wanted[i] for i in np.sort(generator.choice(len(wanted), most, replace=False)).tolist()]
    found = []
    for p, a, b in wanted:
        first = images[p, a][generator.integers(len(images[p, a]))]
        second = images[p, b][generator.integers(len(images[p, b]))]
        found.append((first, second, a, b, True))
        others = len(people_of[b]) - 1
        if others:
            q = people_of[b][generator.integers(others)]
            q = people_of[b][-1] if q == p else q  # every other person equally likely
            found.append((first, images[q, b][generator.integers(len(images[q, b]))], a, b, False))
    table = np.array(found, np.int64).reshape(-1, 5)
    return Pairs(table[:, 0], table[:, 1], table[:, 2:4], table[:, 4].astype(bool))


def auc(scores: Doubles, positive: NDArray[np.bool_]) -> float | None:
    """The chance that a positive scores above a negative, ties half (Mann-Whitney); None without one of each."""
    number = int(positive.sum())
    if number == 0 or number == len(positive):
        return None
    ranks = mean_ranks(scores[None])[0]
    return float((ranks[positive].sum() - number * (number + 1) / 2) / (number * (len(positive) - number)))


def consistency(sample: Sample, maps: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Map -> similarity (Pearson) of one identity's maps across cameras against different identities' maps in the same
    camera pairs, their separation as an AUC (0.5: none), and the same per camera pair. Junk and NULL cameras are out.
    """
    found: dict[str, Any] = {}
    for k, name in enumerate(maps):
        share = sample.share[:, k]
        usable = np.asarray(np.isfinite(share).all(axis=1))
        pairs = camera_pairs(sample.pid, sample.camid, usable, seed)
        similarity = pearson(share[pairs.a].astype(np.float64), share[pairs.b].astype(np.float64))
        known = np.isfinite(similarity)
        found[name] = {
            **_separation(similarity[known], pairs.same[known]),
            "camera_pairs": {
                f"{a}-{b}": _separation(similarity[of], pairs.same[of])
                for a, b in np.unique(pairs.cameras[known], axis=0).tolist()
                for of in [known & (pairs.cameras == [a, b]).all(axis=1)]
            },
        }
    return found


def _separation(similarity: Doubles, same: NDArray[np.bool_]) -> dict[str, Any]:
    one, other = similarity[same], similarity[~same]
    return {
        "auc": auc(similarity, same),
        "same_identity": float(one.mean()) if len(one) else None,
        "different_identity": float(other.mean()) if len(other) else None,
        "same_pairs": len(one),
        "different_pairs": len(other),
    }


@dataclass(frozen=True)
class Outlier:
    """An image far from its identity's mean map; `distance` is the share of mass that lies elsewhere, 0 to 1."""

    distance: float
    shard: str
    row: int
    pid: int


def outliers(selection: Selection, part: Partial, number: int, threads: int = 1) -> list[Outlier]:
    """The images whose first map is farthest (total variation) from the mean of their identity's selected maps.

    Farthest first. A second pass over that one map: no distance is known before the means are. Junk is out.
    """
    name = part.question.maps[0]
    pids, identity = np.unique(part.pid, return_inverse=True)
    order = np.argsort(identity, kind="stable")
    starts = np.searchsorted(identity[order], np.arange(len(pids)))
    mean = np.add.reduceat(part.share[name][order], starts, axis=0, dtype=np.float64)
    counts = np.bincount(identity, part.good[:, 0], len(pids))
    mean = (mean / np.maximum(counts, 1)[:, None]).astype(np.float32)
    place = np.where(selection.pid == JUNK, -1, np.searchsorted(pids, selection.pid))

    def farthest(item: tuple[str, slice]) -> list[Outlier]:
        shard, span = item
        rows, of = selection.rows[span], place[selection.cluster[span]]
        distance = np.empty(len(rows), np.float32)
        for at, maps in read_slices(selection.run, name, shard, rows):
            distances(maps.reshape(len(maps), -1), of[at], mean, distance[at])
        first = np.argsort(-distance, kind="stable")[:number]
        return [Outlier(float(distance[i]), shard, int(rows[i]), int(pids[of[i]])) for i in first if distance[i] >= 0]

    found: list[Outlier] = []
    with ThreadPoolExecutor(threads) as pool:
        for some in pool.map(farthest, selection.spans()):
            found = sorted([*found, *some], key=lambda o: (-o.distance, o.shard, o.row))[:number]
    return found


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
