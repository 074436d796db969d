"""All that one question of `promptsg stats` brought to light, and its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.statistics.accumulate import MEASURED
from jobs.statistics.agreement import Outlier
from jobs.statistics.bootstrap import Summary
from jobs.statistics.partial import Partial
from jobs.statistics.question import JUNK


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that a question brought to light; `keys` names the outliers' images by (shard, row)."""

    run: str
    part: Partial
    summary: Summary
    agreement: list[dict[str, Any]]
    consistency: dict[str, Any]
    outliers: list[Outlier]
    keys: dict[tuple[str, int], str]
    resamples: int

    @property
    def labels(self) -> list[str]:
        """A name per group: `camid=0, split=query`; NULL is `null`."""
        rows = self.part.groups.to_pylist()
        if not self.part.question.by:
            return ["all images"] * len(rows)
        return [", ".join(f"{k}={'null' if v is None else v}" for k, v in row.items()) for row in rows]


def stats_table(found: Findings) -> pa.Table:
    """One row per group, map and measure: value, low, high (null: not defined), images and identities behind it."""
    part, s = found.part, found.summary
    people = [len(set(part.pid[(part.group == g) & (part.pid != JUNK)].tolist())) for g in range(len(s.images))]
    rows = []
    for g, group in enumerate(part.groups.to_pylist()):
        for k, name in enumerate(part.question.maps):
            counted = (("images", s.images[g]), ("zero_maps", s.zero[g, k]), ("not_finite_maps", s.not_finite[g, k]))
            base = {**group, "map": name}
            for measure, number in counted:
                row = {"measure": measure, "value": float(number), "low": None, "high": None}
                rows.append({**base, **row, "n_images": int(s.images[g]), "n_identities": people[g]})
            for v, measure in enumerate(MEASURED):
                numbers = {kind: _number(getattr(s, kind)[g, k, v]) for kind in ("value", "low", "high")}
                counts = {kind: int(getattr(s, kind)[g, k, v]) for kind in ("n_images", "n_identities")}
                rows.append({**base, "measure": measure, **numbers, **counts})
    fields = [("map", pa.string()), ("measure", pa.string())]
    return pa.Table.from_pylist(rows, schema=result_schema(part.groups.schema, fields))


def result_schema(groups: pa.Schema, fields: list[tuple[str, pa.DataType]]) -> pa.Schema:
    """Group values, these fields, then value, low, high, n_images and n_identities."""
    numbers = [pa.field(name, pa.float64()) for name in ("value", "low", "high")]
    counts = [pa.field(name, pa.int64()) for name in ("n_images", "n_identities")]
    return pa.schema([*groups, *(pa.field(name, kind) for name, kind in fields), *numbers, *counts])


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
