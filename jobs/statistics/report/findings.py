"""All results of one question of `promptsg stats`, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from jobs.phrases import shown
from jobs.statistics.accumulate import MEASURED
from jobs.statistics.agreement import Agreement
from jobs.statistics.consistency import Consistency
from jobs.statistics.outliers import Outlier
from jobs.statistics.parts.partial import Partial
from jobs.statistics.question import Question
from jobs.statistics.summary import GroupSummary
from jobs.tables import none_if_nan


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All results of one question about the run in the folder `run`; `consistency` is by map."""

    run: str
    part: Partial
    summary: GroupSummary
    agreement: Sequence[Agreement]
    consistency: Mapping[str, Consistency]
    outliers: Sequence[Outlier]
    resamples: int

    @property
    def labels(self) -> list[str]:
        """A name per group: `camid=0, split=query`; NULL is `null`."""
        return group_labels(self.part.groups, self.part.question)


def group_labels(groups: pa.Table, question: Question) -> list[str]:
    """A name per group: `camid=0, split=query`; NULL is `null`."""
    rows = groups.to_pylist()
    if not question.by:
        return ["all images"] * len(rows)
    return [", ".join(shown(f"{k}={'null' if v is None else v}") for k, v in row.items()) for row in rows]


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """One row of the table: a number of one map in one group, its interval, and what is behind it."""

    group: int
    map: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    n_images: int
    n_identities: int


def stats_table(found: Findings) -> pa.Table:
    """One row per group, map and measure: value, low, high (null: not defined), images and identities behind it."""
    rows: list[Statistic] = []
    for g in range(found.part.groups.num_rows):
        for k in range(len(found.part.question.maps)):
            rows += _counts(found, g, k) + _measures(found, g, k)
    return _result_table(found.part.groups, rows, ("map", "measure"))


def agreement_table(found: Findings) -> pa.Table:
    """One row per pair of maps, group and measure, with the same columns behind."""
    return _result_table(found.part.groups, found.agreement, ("map_a", "map_b", "measure"))


def _counts(found: Findings, g: int, k: int) -> list[Statistic]:
    """How many images a group has, and how many of their maps have no shape."""
    s, images, identities = found.summary, int(found.summary.images[g]), int(found.part.persons[g])
    counts = {"images": images, "zero_maps": int(s.zero[g, k]), "not_finite_maps": int(s.not_finite[g, k])}
    return [
        Statistic(
            group=g,
            map=found.part.question.maps[k],
            measure=measure,
            value=float(count),
            low=None,
            high=None,
            n_images=images,
            n_identities=identities,
        )
        for measure, count in counts.items()
    ]


def _measures(found: Findings, g: int, k: int) -> list[Statistic]:
    s = found.summary
    return [
        Statistic(
            group=g,
            map=found.part.question.maps[k],
            measure=measure,
            value=none_if_nan(s.value[g, k, v]),
            low=none_if_nan(s.low[g, k, v]),
            high=none_if_nan(s.high[g, k, v]),
            n_images=int(s.n_images[g, k, v]),
            n_identities=int(s.n_identities[g, k, v]),
        )
        for v, measure in enumerate(MEASURED)
    ]


def _result_table(groups: pa.Table, rows: Sequence[Statistic | Agreement], names: Sequence[str]) -> pa.Table:
    """The group's values, texts of these names, then value, low, high, n_images and n_identities."""
    columns = groups.take(pa.array([row.group for row in rows], pa.int64())).columns
    fields = list(groups.schema)
    kinds = dict.fromkeys(names, pa.string()) | dict.fromkeys(("value", "low", "high"), pa.float64())
    kinds |= dict.fromkeys(("n_images", "n_identities"), pa.int64())
    for name, kind in kinds.items():
        fields.append(pa.field(name, kind))
        columns.append(pa.array([getattr(row, name) for row in rows], kind))
    return pa.table(columns, schema=pa.schema(fields))
