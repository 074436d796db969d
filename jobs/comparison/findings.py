"""All results of one comparison of two runs: what `promptsg diff` writes and a notebook reads (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from jobs.arrays import Float64Array, Int64Array
from jobs.comparison.measures import MEASURES
from jobs.comparison.pairing import PairCounts
from jobs.comparison.retrieval_change import RetrievalChange
from jobs.comparison.sums import ChangedImage, MapPairSums, PairedSums
from jobs.identity import NOBODY
from jobs.phrases import counted, first_few
from jobs.progress import told
from jobs.statistics.groups import distinct
from jobs.statistics.intervals.bootstrap import Means, intervals
from jobs.statistics.intervals.resamples import LEVEL, Resamples
from jobs.statistics.question import Question
from jobs.statistics.report.findings import Statistic, group_labels
from jobs.statistics.summary import by_group
from jobs.tables import json_rows, none_if_nan


@dataclass(frozen=True, kw_only=True)
class MapDifference:
    """One map's means in each group, (G, h, w) shares of mass on the cells that both runs share; NaN: no pair.

    difference is B minus A, low and high the ends of its 95 % interval over identities. pairs, zero_a, zero_b,
    not_finite_a, not_finite_b (G,): pairs of which both maps have a shape, and how many maps do not. grid_a, grid_b:
    the sizes that each run stored; `resampled` where not both are `cells`.
    """

    cells: tuple[int, int]
    grid_a: tuple[int, int]
    grid_b: tuple[int, int]
    resampled: bool
    mean_a: Float64Array
    mean_b: Float64Array
    difference: Float64Array
    low: Float64Array
    high: Float64Array
    pairs: Int64Array
    zero_a: Int64Array
    zero_b: Int64Array
    not_finite_a: Int64Array
    not_finite_b: Int64Array


@dataclass(frozen=True, kw_only=True)
class RunDifference:
    """What changed from run A to run B.

    statistics: a number per group, map and measure, with its interval. maps: by name. changed: the images whose first
    map moved most, the largest first. retrieval: None where AP is not known, and `no_retrieval` says why. notes: what a
    reader must know of the pairing. groups: G rows of group values; pairs (G,) and identities (G,) of each.
    """

    run_a: str
    run_b: str
    question: Question
    groups: pa.Table
    pairs: Int64Array
    identities: Int64Array
    counts: PairCounts
    notes: tuple[str, ...]
    statistics: tuple[Statistic, ...]
    maps: dict[str, MapDifference]
    changed: tuple[ChangedImage, ...]
    retrieval: RetrievalChange | None
    no_retrieval: str | None
    resamples: int

    @property
    def labels(self) -> list[str]:
        """A name per group."""
        return group_labels(self.groups, self.question)

    def statistic(self, map: str, measure: str, group: int = 0) -> Statistic:
        """One of the numbers. Raises KeyError for a map or measure that was not compared."""
        for one in self.statistics:
            if (one.map, one.measure, one.group) == (map, measure, group):
                return one
        raise KeyError((map, measure, group))


@told("resampling identities")
def summarise_pairs(sums: PairedSums, resamples: int) -> tuple[list[Statistic], dict[str, MapDifference]]:
    """Means over images and their intervals over identities, in each group; images of nobody count as one identity."""
    chosen = sums.chosen
    people, place = distinct(chosen.identity)
    drawn = Resamples(len(people), resamples, chosen.question.seed)
    statistics: list[Statistic] = []
    maps = {}
    for name, found in sums.maps.items():
        means = [Means(found.sums, found.counts), Means(found.difference, found.pairs[:, None])]
        of_measures, of_map = intervals(drawn, chosen.group, place, means, chosen.groups.num_rows)
        statistics += _statistics(sums, name, found, of_measures.low, of_measures.high)
        maps[name] = _map_difference(sums, found, of_map.low, of_map.high)
    return sorted(statistics, key=lambda one: one.group), maps  # stable: then by map and measure


def _statistics(
    sums: PairedSums, name: str, found: MapPairSums, low: Float64Array, high: Float64Array
) -> list[Statistic]:
    chosen, groups = sums.chosen, sums.chosen.groups.num_rows
    total, counts = by_group(found.sums, chosen.group, groups), by_group(found.counts, chosen.group, groups)
    persons = (found.counts > 0) & (chosen.identity != NOBODY)[:, None]
    people = by_group(persons, chosen.group, groups, np.int64)
    with np.errstate(invalid="ignore"):
        value = total / counts
    return [
        Statistic(
            group=g,
            map=name,
            measure=measure,
            value=none_if_nan(value[g, v]),
            low=none_if_nan(low[g, v]),
            high=none_if_nan(high[g, v]),
            n_images=int(counts[g, v]),
            n_identities=int(people[g, v]),
        )
        for g in range(groups)
        for v, measure in enumerate(MEASURES)
    ]


def _map_difference(sums: PairedSums, found: MapPairSums, low: Float64Array, high: Float64Array) -> MapDifference:
    chosen, groups = sums.chosen, sums.chosen.groups.num_rows
    pairs, shape = by_group(found.pairs, chosen.group, groups), (groups, *found.grid.cells)
    with np.errstate(invalid="ignore"):
        mean_a, mean_b = found.mean_a / pairs[:, None], found.mean_b / pairs[:, None]
    return MapDifference(
        cells=found.grid.cells,
        grid_a=found.grid.a.placement.grid,
        grid_b=found.grid.b.placement.grid,
        resampled=not found.grid.is_same,
        mean_a=mean_a.reshape(shape),
        mean_b=mean_b.reshape(shape),
        difference=(mean_b - mean_a).reshape(shape),
        low=low.reshape(shape),
        high=high.reshape(shape),
        pairs=pairs,
        zero_a=found.zero_a,
        zero_b=found.zero_b,
        not_finite_a=found.not_finite_a,
        not_finite_b=found.not_finite_b,
    )


def pairing_notes(counts: PairCounts) -> list[str]:
    """A line for each thing that a reader must know of the pairing, with the first keys."""
    left_out = (
        (counts.missing, counts.missing_keys, "not in run B"),
        (counts.other_shard, counts.other_shard_keys, "in another shard of run B, and not joined"),
        (counts.failed, counts.failed_keys, "in run B without maps"),
    )
    notes = [f"{counted(n, 'image')} left out: {why} ({_few(keys, n)})" for n, keys, why in left_out if n]
    if counts.only_b:
        notes.append(f"{counted(counts.only_b, 'image')} only run B has maps of")
    if counts.other_image:
        keys = _few(counts.other_image_keys, counts.other_image)
        notes.append(f"{counted(counts.other_image, 'pair')} with other bytes of the image in run B ({keys})")
    if counts.unchecked:
        notes.append(f"{counted(counts.unchecked, 'pair')} not known to be of the same image: no CRC-32 is stored")
    return notes


def map_notes(maps: dict[str, MapDifference]) -> list[str]:
    """A line for each map that was resampled, or of which some have no shape."""
    notes = []
    for name, found in maps.items():
        if found.resampled:
            grids = [f"{h}x{w}" for h, w in (found.grid_a, found.grid_b, found.cells)]
            notes.append(
                f"{name}: {grids[0]} patches in run A, {grids[1]} in run B, compared on {grids[2]} cells by area"
            )
        for run in ("a", "b"):
            zero, wrong = (int(getattr(found, f"{kind}_{run}").sum()) for kind in ("zero", "not_finite"))
            if zero or wrong:
                notes.append(
                    f"{name}: of run {run.upper()} {counted(zero, 'map')} without mass and {wrong:,} not finite"
                )
    return notes


def as_json(found: RunDifference) -> dict[str, object]:
    """The content of diff.json: all numbers, but for the rows of images and queries, which are in the tables."""
    retrieval = found.retrieval
    groups = json_rows(found.groups)
    return {
        "run_a": found.run_a,
        "run_b": found.run_b,
        "by": [key.name for key in found.question.by],
        "where": found.question.where or None,
        "maps": {
            name: {
                "cells": one.cells, "grid_a": one.grid_a, "grid_b": one.grid_b, "resampled": one.resampled,
                "groups": [_map_json(one, g) for g in range(len(groups))],
            }
            for name, one in found.maps.items()
        },
        "pairing": asdict(found.counts),
        "notes": found.notes,
        "bootstrap": {"resamples": found.resamples, "seed": found.question.seed, "interval": LEVEL},
        "groups": [
            {"values": row, "pairs": int(found.pairs[g]), "identities": int(found.identities[g])}
            for g, row in enumerate(groups)
        ],
        "statistics": [asdict(one) for one in found.statistics],
        "retrieval": None if retrieval is None else _retrieval_json(retrieval),
        "no_retrieval": found.no_retrieval,
    }  # fmt: skip


def _map_json(one: MapDifference, g: int) -> dict[str, object]:
    counts = ("pairs", "zero_a", "zero_b", "not_finite_a", "not_finite_b")
    arrays = ("mean_a", "mean_b", "difference", "low", "high")
    return {
        **{name: int(getattr(one, name)[g]) for name in counts},
        **{name: [[none_if_nan(v) for v in row] for row in getattr(one, name)[g].tolist()] for name in arrays},
    }


def _retrieval_json(one: RetrievalChange) -> dict[str, object]:
    left_out = {"table", "won", "lost"}
    names = [name for name in one.__dataclass_fields__ if name not in left_out]
    content: dict[str, object] = {}
    for name in names:
        value = getattr(one, name)
        if isinstance(value, tuple):
            content[name] = [asdict(entry) for entry in value]
        else:
            content[name] = asdict(value) if hasattr(value, "__dataclass_fields__") else value
    return {**content, "won": len(one.won), "lost": len(one.lost)}


def _few(keys: Sequence[str], count: int) -> str:
    return first_few(keys) + (", ..." if count > len(keys) else "")
