"""A faithfulness measurement in figures: means over images, with intervals over identities.

Legend: N images, O orders (each map, then random), F fills.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue

from jobs.arrays import Float64Array, FloatArray, Int64Array
from jobs.faithfulness.measured import Measured, count_people
from jobs.faithfulness.plan import FILLS, RANDOM, FaithfulnessConfig
from jobs.progress import told
from jobs.runs.run import Run
from jobs.statistics.intervals.resamples import mean_over_identities
from jobs.tables import none_if_nan


@dataclass(frozen=True)
class MeanInterval:
    """A mean over images and the ends of its 95 % interval over identities; None where not defined."""

    mean: float | None
    low: float | None
    high: float | None

    def as_json(self, name: str) -> dict[str, JsonValue]:
        """`name`, `name_low` and `name_high`."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True, kw_only=True)
class MapFaithfulness:
    """The area under the curve of a map, or of random orders, for one kind of curve and one fill.

    `difference` is the area minus that of random orders on the same images; None for the random orders themselves.
    """

    map: str
    kind: str
    fill: str
    auc: MeanInterval
    difference: MeanInterval | None

    def as_json(self) -> dict[str, JsonValue]:
        """As in summary.json."""
        found: dict[str, JsonValue] = {"map": self.map, "kind": self.kind, "fill": self.fill, **self.auc.as_json("auc")}
        return found if self.difference is None else {**found, **self.difference.as_json("difference")}


@dataclass(frozen=True, kw_only=True)
class MapSanity:
    """How a map correlates with that of a model with random weights; `constant_maps` have no correlation."""

    map: str
    random: str
    images: int
    constant_maps: int
    pearson: MeanInterval
    spearman: MeanInterval

    def as_json(self) -> dict[str, JsonValue]:
        """As in summary.json."""
        return {
            "map": self.map,
            "random": self.random,
            "images": self.images,
            "constant_maps": self.constant_maps,
            **self.pearson.as_json("pearson"),
            **self.spearman.as_json("spearman"),
        }


@dataclass(frozen=True, kw_only=True)
class FaithfulnessSummary:
    """What summary.json says."""

    run: str
    checkpoint: str
    checkpoint_sha256: str
    precision: str
    images: int
    identities: int
    target: str
    score: str
    patches: int
    steps: int
    random_orders: int
    blur_sigma_pixels: float
    seed: int
    resamples: int
    zero_maps: Mapping[str, int]
    faithfulness: tuple[MapFaithfulness, ...]
    sanity: tuple[MapSanity, ...]

    def as_json(self) -> dict[str, JsonValue]:
        """The content of summary.json."""
        lists: dict[str, JsonValue] = {
            "zero_maps": dict(self.zero_maps),
            "faithfulness": [entry.as_json() for entry in self.faithfulness],
            "sanity": [entry.as_json() for entry in self.sanity],
        }
        return {name: lists.get(name, value) for name, value in vars(self).items()}


@told("resampling identities")
def summarise(run: Run, config: FaithfulnessConfig, measured: Measured) -> FaithfulnessSummary:
    """The figures of a measurement."""
    people = measured.people()
    return FaithfulnessSummary(
        run=str(run.layout.root),
        checkpoint=str(config.checkpoint),
        checkpoint_sha256=measured.checkpoint_sha256,
        precision=measured.precision,
        images=measured.rows.num_rows,
        identities=count_people(people),
        target=run.manifest.asked.target,
        score=measured.title,
        patches=int(measured.counts[-1]),
        steps=config.steps,
        random_orders=config.random,
        blur_sigma_pixels=measured.sigma,
        seed=config.seed,
        resamples=config.resamples,
        zero_maps=measured.zero_maps,
        faithfulness=_faithfulness(config, measured, people),
        sanity=_sanity(config, measured, people),
    )


def with_intervals(values: FloatArray, people: Int64Array, config: FaithfulnessConfig) -> Float64Array:
    """(N, ...) -> (3, ...): the mean over images, and the low and the high end of its interval."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    found = mean_over_identities(flat, people, resamples=config.resamples, seed=config.seed)
    return np.stack(found).reshape(3, *values.shape[1:])


def _faithfulness(config: FaithfulnessConfig, measured: Measured, people: Int64Array) -> tuple[MapFaithfulness, ...]:
    from cam.faithfulness import KINDS

    areas = measured.areas()
    means = with_intervals(areas, people, config)
    differences = with_intervals(areas - areas[:, -1:], people, config)
    return tuple(
        MapFaithfulness(
            map=order,
            kind=kind,
            fill=fill,
            auc=_interval(means[:, o, f, k]),
            difference=None if order == RANDOM else _interval(differences[:, o, f, k]),
        )
        for (o, order), (f, fill), (k, kind) in itertools.product(*map(enumerate, (measured.orders, FILLS, KINDS)))
    )


def _sanity(config: FaithfulnessConfig, measured: Measured, people: Int64Array) -> tuple[MapSanity, ...]:
    found = []
    for correlation in measured.correlations:
        values = correlation.values
        means = with_intervals(values, people[measured.checked], config)
        found.append(
            MapSanity(
                map=correlation.map,
                random=correlation.random,
                images=len(values),
                constant_maps=int(np.isnan(values[:, 0]).sum()),
                pearson=_interval(means[:, 0]),
                spearman=_interval(means[:, 1]),
            )
        )
    return tuple(found)


def _interval(values: Float64Array) -> MeanInterval:
    """(3,) mean, low and high."""
    mean, low, high = map(none_if_nan, values.tolist())
    return MeanInterval(mean, low, high)
