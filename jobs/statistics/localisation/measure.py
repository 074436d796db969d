"""One pass over masks and maps, then one over the masks alone for the maps that are the same for all images (no torch).

Memory: sums per cluster, 64 bytes for each thing that is scored; some blocks of masks and maps; 36 bytes per chosen
image. The masks wait on the disk, on the maps' grid: 4 bytes for each patch of each image.

Legend: n images of a block, K maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cam.placement import GridPlacement
from jobs.arrays import BoolArray, Float32Array, Float64Array, Int32Array
from jobs.statistics.chosen import ChosenImages
from jobs.statistics.localisation.blocks import OK, Grid, MaskBlock
from jobs.statistics.localisation.mask_scores import has_mass, mass_on
from jobs.statistics.localisation.queries import RankedQueries
from jobs.statistics.localisation.sums import MEASURES, ScoredMap, Sums, scores_of
from jobs.statistics.localisation.table import RowsWriter
from jobs.statistics.map_slices import grid_of, read_slices


@dataclass(frozen=True, kw_only=True)
class MapGrids:
    """Where the patches of each map lie; maps of one grid share the masks on it."""

    placements: dict[str, GridPlacement]

    @classmethod
    def of(cls, chosen: ChosenImages) -> MapGrids:
        """By name. Raises CamError for a map of another grid than the run's placement."""
        known, maps = chosen.run.manifest.placement, chosen.question.maps
        return cls(placements={name: GridPlacement.of_maps(grid_of(chosen, name), known) for name in maps})

    @property
    def distinct(self) -> list[GridPlacement]:
        """Each once."""
        return list(dict.fromkeys(self.placements.values()))

    def grid(self, name: str) -> Grid:
        """(h, w) of a map."""
        return self.placements[name].grid


@dataclass(frozen=True, kw_only=True)
class MeanMaps:
    """The fixed maps of one grid: the mean mask (h, w), and the average of each map that lies on it, by name."""

    placement: GridPlacement
    prior: Float64Array
    averages: dict[str, Float64Array]


@dataclass
class MeanOfMany:
    """A sum of maps (h, w) and their number."""

    total: Float64Array
    count: int = 0

    def add(self, maps: Float32Array) -> None:
        """Adds maps (n, h, w) without a non-finite value."""
        self.total += maps.sum(axis=0, dtype=np.float64)
        self.count += len(maps)

    @property
    def mean(self) -> Float64Array:
        """(h, w); zeros of nothing."""
        return self.total / max(1, self.count)


@dataclass(frozen=True)
class _Waiting:
    """The usable masks of a block: cluster (n,) of each, and the files of what they cover, by grid."""

    cluster: Int32Array
    paths: dict[Grid, Path]


@dataclass
class Localiser:
    """What one pass collects. `scratch` is a folder for masks and rows that wait."""

    chosen: ChosenImages
    grids: MapGrids
    scratch: Path
    rows: RowsWriter
    queries: RankedQueries | None
    sums: Sums = field(init=False)
    priors: dict[Grid, MeanOfMany] = field(init=False)
    averages: dict[str, MeanOfMany] = field(init=False)
    _waiting: list[_Waiting] = field(default_factory=list)

    def __post_init__(self) -> None:
        maps = self.chosen.question.maps
        self.sums = Sums(len(self.chosen.identity), maps)
        self.priors = {placed.grid: MeanOfMany(np.zeros(placed.grid)) for placed in self.grids.distinct}
        self.averages = {name: MeanOfMany(np.zeros(self.grids.grid(name))) for name in maps}

    def add(self, block: MaskBlock) -> None:
        """Compares the maps of a block with its masks."""
        usable = np.array([status == OK for status in block.status])
        scores, on_parts = {}, {}
        for name in self.chosen.question.maps:
            maps = _maps_of(self.chosen, name, block)
            grid = self.grids.grid(name)
            scores[name] = self._add_map(name, maps, block.person[grid], block.at, usable)
            for part, share in block.parts[grid].items():
                on_parts[name, part] = np.where(usable, mass_on(maps, share), np.nan)
        self._add_masks(block, usable)
        first = self.grids.grid(self.chosen.question.maps[0])
        area = _where(usable, block.person[first].mean(axis=(1, 2), dtype=np.float64))
        areas = {part: _where(usable, _mean(share)) for part, share in block.parts[first].items()}
        self.sums.area.add(self.chosen.cluster[block.at], area[:, None])
        self._add_parts(block, areas, on_parts)
        self.rows.add(block, area, scores, areas, on_parts)
        if self.queries is not None:
            rows, clusters = self.chosen.rows[block.at].astype(np.int64), self.chosen.cluster[block.at]
            values = np.stack([scores[name] for name in self.chosen.question.maps], axis=1)
            self.queries.take(block.shard, rows, block.keys, self.chosen.identity[clusters], values)

    def add_fixed(self) -> None:
        """Scores the fixed prior of each grid, and each map's average, on all masks: the second pass."""
        # Rounding must not decide between patches that persons cover equally often.
        fixed = [(scored, placed.grid, self.priors[placed.grid].mean.round(6)) for scored, placed in self._priors()]
        for name, one in self.averages.items():
            fixed.append((ScoredMap("average", name), self.grids.grid(name), one.mean))
        for waiting in self._waiting:
            masks = {grid: np.load(path) for grid, path in waiting.paths.items()}
            for scored, grid, values in fixed:
                self.sums.of(scored).add(waiting.cluster, scores_of(values[None], masks[grid]))

    def mean_maps(self) -> tuple[MeanMaps, ...]:
        """The fixed maps of each grid."""
        found = []
        for placed in self.grids.distinct:
            names = [name for name, its in self.grids.placements.items() if its == placed]
            averages = {name: self.averages[name].mean for name in names}
            found.append(MeanMaps(placement=placed, prior=self.priors[placed.grid].mean, averages=averages))
        return tuple(found)

    def _priors(self) -> Iterator[tuple[ScoredMap, GridPlacement]]:
        grids = self.grids.distinct
        for placed in grids:
            yield ScoredMap("prior", "" if len(grids) == 1 else _name_of(placed.grid)), placed

    def _add_map(
        self, name: str, maps: Float32Array, person: Float32Array, at: slice, usable: BoolArray
    ) -> Float64Array:
        """(n, MEASURES) the scores of a block's maps; NaN without a mask."""
        found = np.full((len(maps), len(MEASURES)), np.nan)
        maps, cluster = maps[usable], self.chosen.cluster[at][usable]
        found[usable] = scores_of(maps, person[usable])
        self.sums.of(ScoredMap("map", name)).add(cluster, found[usable])
        finite = np.isfinite(maps).all(axis=(1, 2))
        np.add.at(self.sums.not_finite[name], cluster[~finite], 1)
        np.add.at(self.sums.zero[name], cluster[finite & ~has_mass(maps)], 1)
        self.averages[name].add(maps[finite])
        return found

    def _add_masks(self, block: MaskBlock, usable: BoolArray) -> None:
        """Keeps the usable masks for the second pass."""
        if not usable.any():
            return
        for grid, prior in self.priors.items():
            prior.add(block.person[grid][usable])
        paths = {grid: self.scratch / f"masks-{len(self._waiting)}-{_name_of(grid)}.npy" for grid in block.person}
        for grid, path in paths.items():
            np.save(path, block.person[grid][usable])
        self._waiting.append(_Waiting(self.chosen.cluster[block.at][usable], paths))

    def _add_parts(
        self, block: MaskBlock, areas: dict[str, Float64Array], on_parts: dict[tuple[str, str], Float64Array]
    ) -> None:
        cluster, maps = self.chosen.cluster[block.at], self.chosen.question.maps
        for part, area in areas.items():
            on = np.stack([on_parts[name, part] for name in maps], axis=1)
            on[~(area > 0)] = np.nan  # an image that does not show the part says nothing of it
            sums = self.sums.of_part(part)
            sums.on.add(cluster, on)
            sums.area.add(cluster, np.where(np.isfinite(on), area[:, None], np.nan))


def _maps_of(chosen: ChosenImages, name: str, block: MaskBlock) -> Float32Array:
    """(n, h, w) the maps of a block's images."""
    slices = read_slices(chosen.run, name, block.shard, chosen.rows[block.at])
    return np.concatenate([maps for _, maps in slices])


def _where(usable: BoolArray, values: Float64Array) -> Float64Array:
    return np.where(usable, values, np.nan)


def _mean(share: Float32Array) -> Float64Array:
    """(n, h, w) -> (n,)"""
    return np.asarray(share.mean(axis=(1, 2), dtype=np.float64))


def _name_of(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"
