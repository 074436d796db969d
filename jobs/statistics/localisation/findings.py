"""What `promptsg localise` finds: scores per group with intervals, parts, and failed queries (no torch).

Legend: C clusters (one identity in one group), G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.arrays import Int64Array
from jobs.identity import NOBODY
from jobs.statistics.chosen import ChosenImages
from jobs.statistics.intervals.bootstrap import Interval, Means, intervals
from jobs.statistics.intervals.resamples import Resamples
from jobs.statistics.localisation.blocks import MaskCounts
from jobs.statistics.localisation.measure import MeanMaps
from jobs.statistics.localisation.queries import QueriesLook
from jobs.statistics.localisation.sums import MEASURES, Kind, PartSums, ScoredMap, ScoreSums, Sums
from jobs.statistics.question import Question
from jobs.statistics.report.findings import group_labels
from jobs.statistics.report.with_interval import WithInterval
from jobs.statistics.summary import by_group


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """How one thing lies on the persons of a group, on average over images.

    kind, map: a map of the run, its average in place of each, or the fixed prior, which is the mean mask. on_person:
    share of the mass on the person. ratio: this over the person's share of the area; 1 is chance. pointing: how often
    the highest patch is on the person. auc: the probability that a patch on the person has a higher value than one
    beside. images, identities: with a ratio. zero, not_finite: maps without a shape.
    """

    group: int
    kind: Kind
    map: str
    name: str
    on_person: WithInterval
    ratio: WithInterval
    pointing: WithInterval
    auc: WithInterval
    images: int
    identities: int
    zero: int
    not_finite: int


@dataclass(frozen=True, kw_only=True)
class PartLocalisation:
    """How a map lies on one part, over the images that show it: shares of mass and of area, and the first over the
    second."""

    group: int
    map: str
    part: str
    on: WithInterval
    area: WithInterval
    ratio: WithInterval
    images: int


@dataclass(frozen=True, kw_only=True)
class LocaliseFindings:
    """All results about the run in the folder `run`.

    groups: G rows of group values. area: the person's share of the image, per group. queries: None where `promptsg
    evaluate` has not run.
    """

    run: str
    question: Question
    groups: pa.Table
    images: int
    counts: MaskCounts
    area: tuple[WithInterval, ...]
    scores: tuple[Localisation, ...]
    parts: tuple[PartLocalisation, ...]
    means: tuple[MeanMaps, ...]
    queries: tuple[QueriesLook, ...] | None
    resamples: int

    @property
    def labels(self) -> list[str]:
        """A name per group: `camid=0, split=query`; NULL is `null`."""
        return group_labels(self.groups, self.question)

    def of_group(self, group: int) -> list[Localisation]:
        """The scores of one group: maps, the prior, averages."""
        return [one for one in self.scores if one.group == group]


@dataclass(frozen=True, kw_only=True)
class GroupMeans:
    """Means over a run's groups: of clusters with a usable mask, from which identities are drawn."""

    chosen: ChosenImages
    sums: Sums
    resamples: Resamples
    place: Int64Array
    kept: Int64Array

    @classmethod
    def of(cls, chosen: ChosenImages, sums: Sums, resamples: int, seed: int) -> GroupMeans:
        """Identities without a mask are not drawn."""
        kept = np.flatnonzero(sums.area.counts[:, 0] > 0)
        people, place = np.unique(chosen.identity[kept], return_inverse=True)
        return cls(chosen=chosen, sums=sums, resamples=Resamples(len(people), resamples, seed), place=place, kept=kept)

    @property
    def groups(self) -> int:
        """G."""
        return int(self.chosen.groups.num_rows)

    def scores(self) -> tuple[Localisation, ...]:
        """Maps, then the prior, then averages, in each group."""
        order = {"map": 0, "prior": 1, "average": 2}
        scored = sorted(self.sums.scores, key=lambda one: order[one.kind])
        found = [one for each in scored for one in self._localisations(each)]
        return tuple(sorted(found, key=lambda one: one.group))

    def parts(self) -> tuple[PartLocalisation, ...]:
        """Of each map, each part that a mask of the group shows."""
        return tuple(one for part in sorted(self.sums.parts) for one in self._of_part(part, self.sums.parts[part]))

    def area(self) -> tuple[WithInterval, ...]:
        """Of each group, the person's share of the image."""
        return tuple(row[0] for row in self._estimates(self.sums.area))

    def _localisations(self, scored: ScoredMap) -> list[Localisation]:
        sums = self.sums.scores[scored]
        rows, group = self._estimates(sums), self.chosen.group
        ratio = MEASURES.index("ratio")
        images = by_group(sums.counts[:, ratio], group, self.groups).astype(int).tolist()
        known = (sums.counts[:, ratio] > 0) & (self.chosen.identity != NOBODY)
        identities = by_group(known, group, self.groups, np.int64).tolist()
        nothing = np.zeros(self.sums.clusters)
        is_map = scored.kind == "map"
        zero = by_group(self.sums.zero[scored.map] if is_map else nothing, group, self.groups).astype(int).tolist()
        broken = self.sums.not_finite[scored.map] if is_map else nothing
        not_finite = by_group(broken, group, self.groups).astype(int).tolist()
        return [
            Localisation(
                group=g,
                kind=scored.kind,
                map=scored.map,
                name=scored.name,
                **dict(zip(MEASURES, rows[g], strict=True)),
                images=images[g],
                identities=identities[g],
                zero=zero[g],
                not_finite=not_finite[g],
            )
            for g in range(self.groups)
        ]

    def _of_part(self, part: str, sums: PartSums) -> list[PartLocalisation]:
        on, area = self._estimates(sums.on), self._estimates(sums.area)
        ratio = self._estimates(ScoreSums(sums.on.sums, sums.area.sums))
        images = by_group(sums.on.counts, self.chosen.group, self.groups).astype(int)
        return [
            PartLocalisation(
                group=g,
                map=name,
                part=part,
                on=on[g][k],
                area=area[g][k],
                ratio=ratio[g][k],
                images=int(images[g, k]),
            )
            for g in range(self.groups)
            for k, name in enumerate(self.sums.maps)
            if images[g, k]
        ]

    def _estimates(self, sums: ScoreSums) -> list[list[WithInterval]]:
        """[group][value]: sum / count with its interval."""
        group = self.chosen.group[self.kept]
        means = Means(sums.sums[self.kept], sums.counts[self.kept])
        ((low, high),) = intervals(self.resamples, group, self.place, [means], self.groups)
        return _as_estimates(sums, self.chosen, self.groups, Interval(low, high))


def _as_estimates(sums: ScoreSums, chosen: ChosenImages, groups: int, ends: Interval) -> list[list[WithInterval]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        value = by_group(sums.sums, chosen.group, groups) / by_group(sums.counts, chosen.group, groups)
    columns: Sequence[int] = range(value.shape[1])
    return [[WithInterval.of(value[g, v], ends.low[g, v], ends.high[g, v]) for v in columns] for g in range(groups)]
