"""Do the maps of one identity agree across cameras, more than those of different identities?

Legend: N images, M patches, P pairs. Maps are shares of mass; a map without mass is NaN and is left out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from jobs.arrays import BoolArray, Float64Array, Int64Array
from jobs.identity import NOBODY
from jobs.progress import told
from jobs.statistics.chosen import NULL_CAM
from jobs.statistics.correlation import mean_ranks, pearson
from jobs.statistics.parts.partial import SampledImages

MAX_PAIRS = 20_000


@dataclass(frozen=True, kw_only=True)
class Separation:
    """Mean correlation of two maps of the same identity and of different ones, and how well it tells them apart.

    auc 0.5: not at all. None: no such pair.
    """

    auc: float | None
    same_identity: float | None
    different_identity: float | None
    same_pairs: int
    different_pairs: int


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """One map's separation of identities over all pairs of cameras, and in each pair (a, b), a < b."""

    overall: Separation
    camera_pairs: dict[tuple[int, int], Separation]


@dataclass(frozen=True)
class CameraPairs:
    """Positions in the sample: images a (P,) and b (P,) of one camera pair (P, 2); `same` (P,) the same identity."""

    a: Int64Array
    b: Int64Array
    cameras: Int64Array
    same: BoolArray


@told("comparing the maps of each person")
def consistency(sample: SampledImages, maps: tuple[str, ...], seed: int) -> dict[str, Consistency]:
    """Of each map: how similar (Pearson) an identity's maps are across cameras, against those of different identities.

    Both kinds of pairs are of the same pairs of cameras. Images of nobody, and without a camera, are left out.
    """
    return {name: _consistency_of(sample, k, seed) for k, name in enumerate(maps)}


def _consistency_of(sample: SampledImages, k: int, seed: int) -> Consistency:
    share = sample.share[:, k]
    usable = np.asarray(np.isfinite(share).all(axis=1))
    pairs = camera_pairs(sample.identity, sample.camid, usable, seed)
    similarity = pearson(share[pairs.a].astype(np.float64), share[pairs.b].astype(np.float64))
    known = np.isfinite(similarity)
    by_cameras = {}
    for a, b in np.unique(pairs.cameras[known], axis=0).tolist():
        here = known & (pairs.cameras == [a, b]).all(axis=1)
        by_cameras[a, b] = _separation(similarity[here], pairs.same[here])
    return Consistency(overall=_separation(similarity[known], pairs.same[known]), camera_pairs=by_cameras)


def _separation(similarity: Float64Array, same: BoolArray) -> Separation:
    one, other = similarity[same], similarity[~same]
    return Separation(
        auc=auc(similarity, same),
        same_identity=float(one.mean()) if len(one) else None,
        different_identity=float(other.mean()) if len(other) else None,
        same_pairs=len(one),
        different_pairs=len(other),
    )


def camera_pairs(
    identity: Int64Array, camid: Int64Array, usable: BoolArray, seed: int, most: int = MAX_PAIRS
) -> CameraPairs:
    """For each identity and pair of its cameras: one random image of each, and one of another identity in the second.

    There are as many pairs of different identities as of the same. Above `most`, a random `most` of each are taken.
    """
    generator = np.random.default_rng(seed)
    images: dict[tuple[int, int], list[int]] = {}
    for index in np.flatnonzero(usable & (identity != NOBODY) & (camid != NULL_CAM)).tolist():
        images.setdefault((int(identity[index]), int(camid[index])), []).append(index)
    cameras_of: dict[int, list[int]] = {}
    people_of: dict[int, list[int]] = {}
    for person, camera in sorted(images):
        cameras_of.setdefault(person, []).append(camera)
        people_of.setdefault(camera, []).append(person)
    wanted = [(p, a, b) for p, cameras in sorted(cameras_of.items()) for a, b in itertools.combinations(cameras, 2)]
    if len(wanted) > most:
        wanted = [wanted[i] for i in np.sort(generator.choice(len(wanted), most, replace=False)).tolist()]
    found = []
    for person, a, b in wanted:
        first = images[person, a][generator.integers(len(images[person, a]))]
        second = images[person, b][generator.integers(len(images[person, b]))]
        found.append((first, second, a, b, True))
        others = len(people_of[b]) - 1
        if others:
            other = people_of[b][generator.integers(others)]
            other = people_of[b][-1] if other == person else other  # every other person is equally likely
            found.append((first, images[other, b][generator.integers(len(images[other, b]))], a, b, False))
    table = np.array(found, np.int64).reshape(-1, 5)
    return CameraPairs(table[:, 0], table[:, 1], table[:, 2:4], table[:, 4].astype(bool))


def auc(scores: Float64Array, positive: BoolArray) -> float | None:
    """The probability that a positive scores above a negative, ties half (Mann-Whitney); None without one of each."""
    number = int(positive.sum())
    if number == 0 or number == len(positive):
        return None
    ranks = mean_ranks(scores[None])[0]
    return float((ranks[positive].sum() - number * (number + 1) / 2) / (number * (len(positive) - number)))
