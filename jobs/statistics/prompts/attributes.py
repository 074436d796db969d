"""Attribute labels of identities as a table, and whether a prompt's attention shows them (no torch).

Legend: N images, P pids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.arrays import BoolArray, Float64Array, Int64Array
from jobs.errors import UserError
from jobs.phrases import counted, one_line
from jobs.prompt_sets import STRIPES_OF, Probe
from jobs.reading import reading
from jobs.statistics.intervals.resamples import EDGES, resample_counts
from jobs.statistics.report.with_interval import WithInterval
from jobs.tables import csv_rows
from jobs.text_files import read_text

_UNKNOWN = -1
_WHAT, _REMEDY = "attribute labels", "give a CSV or Parquet file with the column pid and one for each label"
_ARRAYS = 4  # of float64, per image and resample


@dataclass(frozen=True)
class Attributes:
    """Labels of identities: pids (P,), rising, and values (P,) by label, as in the published files; -1 is unknown.

    Published values are from 1. `from_zero` tells that the table had them from 0.
    """

    pids: Int64Array
    values: Mapping[str, Int64Array]
    from_zero: bool

    def of(self, label: str, pid: Int64Array) -> Int64Array:
        """(N,) the values of a label for the pids (N,); -1 where unknown."""
        place = np.minimum(np.searchsorted(self.pids, pid), len(self.pids) - 1)
        return np.where(self.pids[place] == pid, self.values[label][place], _UNKNOWN)


def read_attributes(path: Path) -> Attributes:
    """A table with a row for each identity: `pid`, and a column for each label; empty cells are unknown.

    Values are those of the published files, which number from 1 (no is 1, yes is 2), or one less, or true and false:
    where a two-valued label has a 0, all two-valued labels are from 0. Labels of more values are judged by themselves.
    Raises UserError naming the file and the column for values that are no whole numbers, and for a pid that is there
    twice.
    """
    table = _read(path)
    if "pid" not in table.column_names or not len(table):
        raise UserError(f"{path} has no column pid, or no row; {_REMEDY}")
    numbers = {name: _numbers(path, name, table[name]) for name in table.column_names}
    if empty := table["pid"].null_count:
        raise UserError(f"{path} has {counted(empty, 'row')} without a pid; {_REMEDY}")
    pids = numbers.pop("pid")
    order = np.argsort(pids, kind="stable")
    if (np.diff(pids[order]) == 0).any():
        twice = pids[order][:-1][np.diff(pids[order]) == 0][0]
        raise UserError(f"{path} has the pid {twice} twice; give a row for each identity")
    two_valued = [values for values in numbers.values() if values.max(initial=0) <= 2]
    from_zero = any((values == 0).any() for values in two_valued)
    found = {}
    for name, values in numbers.items():
        shift = from_zero if values.max(initial=0) <= 2 else (values == 0).any()
        found[name] = np.where(values == _UNKNOWN, _UNKNOWN, values + int(shift))[order]
    return Attributes(pids[order], found, from_zero)


def _read(path: Path) -> pa.Table:
    with reading(path, _WHAT, _REMEDY):
        if path.suffix.lower() == ".parquet":
            return pq.ParquetFile(path).read()
        rows = csv_rows(read_text(path).splitlines(keepends=True))
        return pa.table({name: [row[name].strip() or None for row in rows] for name in (rows[0] if rows else ())})


def _numbers(path: Path, name: str, column: pa.ChunkedArray) -> Int64Array:
    """(P,) whole numbers; -1 for an empty cell."""
    try:
        if pa.types.is_string(column.type):
            lowered = pc.utf8_lower(column)
            column = pc.if_else(pc.equal(lowered, "true"), "1", pc.if_else(pc.equal(lowered, "false"), "0", lowered))
        found: Int64Array = pc.fill_null(pc.cast(column, pa.int64()), _UNKNOWN).to_numpy()
    except pa.ArrowException as error:
        raise UserError(
            f"{path}: the column {name} has a value that is no whole number ({one_line(error)}); {_REMEDY}"
        ) from error
    return found


@dataclass(frozen=True, kw_only=True)
class AttributeAuc:
    """How well the share of a prompt's attention on a part tells images with an attribute from images without.

    auc: the probability that an image with it has more there. others: the same for the mean of the other prompts'
    attention on that part, which knows nothing of this attribute; None where there are none.
    """

    map: str
    prompt: str
    label: str
    part: str
    auc: WithInterval
    others: WithInterval
    images_with: int
    images_without: int
    identities: int


@dataclass(frozen=True, kw_only=True)
class StripeShares:
    """Of N images: pid (N,), identity (N,), and the share of each map's mass in six stripes, (N, 6) by map."""

    pid: Int64Array
    identity: Int64Array
    stripes: Mapping[str, Float64Array]

    def on(self, name: str, part: str) -> Float64Array:
        """(N,) the share of a map's mass on a part."""
        return np.asarray(self.stripes[name][:, list(STRIPES_OF[part])].sum(axis=1))


def attribute_aucs(
    shares: StripeShares,
    maps: Mapping[str, str],
    probes: Mapping[str, Probe],
    attributes: Attributes,
    resamples: int,
    seed: int,
) -> list[AttributeAuc]:
    """Of each prompt of a list whose label is in the table, and whose attribute has a part. `maps` are by prompt."""
    found = []
    for prompt, probe in probes.items():
        if prompt not in maps or probe.part is None or probe.label not in attributes.values:
            continue
        values = attributes.of(probe.label, shares.pid)
        score = shares.on(maps[prompt], probe.part)
        others = [shares.on(name, probe.part) for other, name in maps.items() if other != prompt]
        mean = np.mean(others, axis=0) if others else np.full(len(score), np.nan)
        known = (values != _UNKNOWN) & np.isfinite(score)
        has, who = values[known] == probe.value, shares.identity[known]
        found.append(
            AttributeAuc(
                map=maps[prompt],
                prompt=prompt,
                label=probe.label,
                part=probe.part,
                auc=auc_over_identities(score[known], has, who, resamples, seed),
                others=auc_over_identities(mean[known], has, who, resamples, seed),
                images_with=int(has.sum()),
                images_without=int((~has).sum()),
                identities=len(np.unique(who)),
            )
        )
    return found


def auc_over_identities(
    scores: Float64Array, positive: BoolArray, identity: Int64Array, resamples: int, seed: int
) -> WithInterval:
    """The AUC of scores (N,), ties half, and its interval over identities (N,). A score of NaN is left out.

    No interval where fewer than two identities are positive, or negative.
    """
    known = np.isfinite(scores)
    scores, positive, identity = scores[known], positive[known], identity[known]
    if not positive.any() or positive.all():
        return WithInterval(value=None)
    level, who = np.unique(scores, return_inverse=True)[1], np.unique(identity, return_inverse=True)[1]
    value = _weighted_auc(level, positive, np.ones((1, len(scores))))[0]
    if min(len(np.unique(identity[positive])), len(np.unique(identity[~positive]))) < 2:
        return WithInterval.of(value)
    blocks = resample_counts(int(who.max()) + 1, resamples, seed, width=len(scores) * _ARRAYS)
    drawn = [_weighted_auc(level, positive, counts[:, who].astype(np.float64)) for counts in blocks]
    low, high = np.nanpercentile(np.concatenate(drawn), EDGES)
    return WithInterval.of(value, low, high)


def _weighted_auc(level: Int64Array, positive: BoolArray, weights: Float64Array) -> Float64Array:
    """level (N,) ranks of the distinct scores, weights (B, N) -> (B,) the AUC; NaN where a side was not drawn."""
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.diff(level[order], prepend=-1))
    yes, no = (np.add.reduceat(weights[:, order] * side[order], starts, axis=1) for side in (positive, ~positive))
    below = no.cumsum(axis=1) - no / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((yes * below).sum(axis=1) / (yes.sum(axis=1) * no.sum(axis=1)))
