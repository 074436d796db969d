"""Sums of scores per cluster, from which means of groups and their intervals follow (numpy).

Legend: C clusters (one identity in one group), n images of a block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from jobs.arrays import Float64Array, FloatArray, Int32Array
from jobs.statistics.localisation.mask_scores import mask_auc, mass_on, mass_ratio, pointing

MEASURES = ("on_person", "ratio", "pointing", "auc")
Kind = Literal["map", "average", "prior"]


def scores_of(maps: FloatArray, person: FloatArray) -> Float64Array:
    """(n or 1, h, w), (n, h, w) -> (n, MEASURES)."""
    return np.stack([measure(maps, person) for measure in (mass_on, mass_ratio, pointing, mask_auc)], axis=1)


@dataclass(frozen=True)
class ScoredMap:
    """What is scored: a map of the run, its average in place of each, or the fixed prior, whose `map` is empty."""

    kind: Kind
    map: str

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return {"map": self.map, "average": f"average of {self.map}", "prior": "fixed prior"}[self.kind]


@dataclass
class ScoreSums:
    """Sums (C, V) and counts (C, V) of values that are not NaN."""

    sums: Float64Array
    counts: Float64Array

    @classmethod
    def zeros(cls, clusters: int, values: int) -> ScoreSums:
        """Of nothing yet."""
        return cls(np.zeros((clusters, values)), np.zeros((clusters, values)))

    def add(self, cluster: Int32Array, values: Float64Array) -> None:
        """Adds values (n, V) to the clusters (n,)."""
        known = np.isfinite(values)
        np.add.at(self.sums, cluster, np.where(known, values, 0))
        np.add.at(self.counts, cluster, known)


@dataclass
class PartSums:
    """Over images that show a part: sums (C, K) of the share of each map's mass on it, and of its area; counts (C, K).

    An image counts for the maps that have mass.
    """

    on: ScoreSums
    area: ScoreSums


@dataclass
class Sums:
    """All sums of one pass over masks and maps.

    scores: of each thing that is scored, (C, MEASURES). area (C, 1): the person's share of the image. parts: by name.
    zero, not_finite (C,): maps without a shape of images that have a mask, by map.
    """

    clusters: int
    maps: tuple[str, ...]
    scores: dict[ScoredMap, ScoreSums] = field(default_factory=dict)
    area: ScoreSums = field(init=False)
    parts: dict[str, PartSums] = field(default_factory=dict)
    zero: dict[str, Float64Array] = field(default_factory=dict)
    not_finite: dict[str, Float64Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.area = ScoreSums.zeros(self.clusters, 1)
        for name in self.maps:
            self.zero[name], self.not_finite[name] = np.zeros(self.clusters), np.zeros(self.clusters)

    def of(self, scored: ScoredMap) -> ScoreSums:
        """The sums of one thing that is scored."""
        return self.scores.setdefault(scored, ScoreSums.zeros(self.clusters, len(MEASURES)))

    def of_part(self, part: str) -> PartSums:
        """The sums of one part."""
        if part not in self.parts:
            width = len(self.maps)
            zeros = ScoreSums.zeros(self.clusters, width), ScoreSums.zeros(self.clusters, width)
            self.parts[part] = PartSums(*zeros)
        return self.parts[part]
