"""Sums per cluster, and histograms per group, of the numbers that mining stored with each map (no torch).

Single heads have none in the metadata: theirs are computed here, from their maps.

Legend: N images, C clusters, G groups, K maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cam.measures import effective_areas, measure_maps
from cam.names import column_of
from jobs.arrays import Float32Array, Float64Array, Int64Array
from jobs.runs.heads.names import is_head, without_heads
from jobs.runs.run import Run
from jobs.statistics.chosen import ChosenImages
from jobs.statistics.loops import LARGEST, LEAST, add_numbers
from jobs.statistics.map_slices import chosen_maps

STORED = ("mass", "entropy", "com_x", "com_y", "area50", "area90")
DISTRIBUTIONS = ("entropy", "area50", "com_x", "com_y")  # shown as histograms; entropy as a share of its maximum ln M
BINS = 512


@dataclass(frozen=True, kw_only=True)
class StoredNumbers:
    """Sums and counts (C, K, STORED) of the finite values; histogram (G, K, DISTRIBUTIONS, BINS), bins from 0 to 1."""

    sums: Float64Array
    counts: Float64Array
    histogram: Int64Array


def stored_columns(run: Run, maps: Sequence[str]) -> list[str]:
    """The columns to choose images with; runs of the first version have no area90, and single heads no columns."""
    columns = [_column(name, measure) for name in without_heads(maps) for measure in STORED]
    return [column for column in columns if column in run.schema.names or not column.endswith("_area90")]


def stored_numbers(chosen: ChosenImages, grids: Mapping[str, tuple[int, int]]) -> StoredNumbers:
    """The numbers of the chosen images; `grids` are the maps' sizes, by name."""
    shape = (len(grids), len(STORED), len(chosen.identity))
    sums, counts = np.zeros(shape), np.zeros(shape)
    histogram = np.zeros((len(grids), len(STORED), chosen.groups.num_rows, BINS), np.int64)
    for k, (name, (h, w)) in enumerate(grids.items()):
        computed = measures_of_head(chosen, name) if is_head(name) else {}
        for m, measure in enumerate(STORED):
            values = computed[measure] if computed else chosen.column(_column(name, measure))
            values = areas_of(chosen, name) if values is None else values
            unit = np.log(max(2, h * w)) if measure == "entropy" else 1.0
            add_numbers(values, chosen.cluster, unit, sums[k, m], counts[k, m], chosen.group, histogram[k, m])
    shown = [STORED.index(measure) for measure in DISTRIBUTIONS]
    return StoredNumbers(
        sums=np.moveaxis(sums, 2, 0),
        counts=np.moveaxis(counts, 2, 0),
        histogram=np.moveaxis(histogram[:, shown], 2, 0),
    )


def measures_of_head(chosen: ChosenImages, name: str) -> dict[str, Float32Array]:
    """Measure -> (N,), as mining would have stored them of a map."""
    found = {measure: np.full(len(chosen.rows), np.nan, np.float32) for measure in STORED}
    for place, maps in chosen_maps(chosen, name):
        measured = measure_maps(maps, chosen.run.manifest.measured_placement)
        for measure, values in found.items():
            values[place] = measured[measure]
    return found


def areas_of(chosen: ChosenImages, name: str) -> Float32Array:
    """(N,) area90 from the maps themselves: runs of the first version have no such column."""
    areas = np.full(len(chosen.rows), np.nan, np.float32)
    for place, maps in chosen_maps(chosen, name):
        flat = maps.reshape(len(maps), -1).astype(np.float64)
        mass = flat.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where((mass >= LEAST) & (mass <= LARGEST), flat / mass, np.nan)
        areas[place] = effective_areas(share, [0.9])[0]
    return areas


def _column(name: str, measure: str) -> str:
    return f"{column_of(name)}_{measure}"
