"""How well a run's maps lie on the persons of drawn pedestrians, whose shards hold masks (no torch)."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from jobs.errors import UserError
from jobs.pedestrians.dataset import MASK_SUFFIX
from jobs.runs.run import Run
from jobs.statistics.mask_scores import covered_share, mask_auc, mass_ratio, pointing
from jobs.statistics.resamples import mean_over_identities

Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """Means over the images that have the map; `interval` holds 95 % bootstrap intervals over identities.

    ratio: mass on the person over its share of the area. pointing: how often the highest patch is on the person. auc:
    against the mask. zero: all-zero maps.
    """

    name: str
    ratio: float
    pointing: float
    auc: float
    zero: int
    images: int
    interval: dict[str, tuple[float, float]]


def read_masks(shards: Sequence[Path]) -> dict[str, NDArray[np.bool_]]:
    """key -> (H, W) mask of the person, any part of it. Raises UserError if the shards hold none."""
    masks: dict[str, NDArray[np.bool_]] = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(MASK_SUFFIX) and (file := tar.extractfile(member)) is not None:
                    labels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
                    masks[member.name.removesuffix(MASK_SUFFIX)] = np.asarray(labels) > 0
    if not masks:
        raise UserError(f"{', '.join(map(str, shards))}: no masks in these shards")
    return masks


def localise(run: Run, masks: dict[str, NDArray[np.bool_]], seed: int = 0) -> list[Localisation]:
    """Every map of the run on images of known persons, then the fixed prior and each map's own average.

    The prior is the average mask, the same for every image: what a map scores that knows only where persons stand. A
    map that is no better than its own average tells nothing about the single image.
    """
    rows = run.metadata().to_table(columns=["shard", "key", "h5_row", "pid", "status"]).to_pylist()
    rows = [row for row in rows if row["status"] == "ok" and (row["pid"] or 0) > 0 and row["key"] in masks]
    people = np.array([row["pid"] for row in rows])
    maps = {name: run.maps_of(name, rows) for name in run.maps}
    grid = next(iter(maps.values())).shape[1:]
    share = np.stack([covered_share(masks[row["key"]], (grid[0], grid[1])) for row in rows])
    found = [_score(name, values, share, people, seed) for name, values in maps.items()]
    found.append(_score("fixed prior", _fixed(share), share, people, seed))
    found += [_score(f"average of {name}", _fixed(values), share, people, seed) for name, values in maps.items()]
    return found


def _fixed(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.broadcast_to(values.mean(axis=0), values.shape)


def _score(name: str, maps: NDArray[np.floating], share: Doubles, people: NDArray[np.int64], seed: int) -> Localisation:
    numbers = {"ratio": mass_ratio(maps, share), "pointing": pointing(maps, share), "auc": mask_auc(maps, share)}
    mean, low, high = mean_over_identities(np.stack(list(numbers.values()), axis=1), people, seed=seed)
    means = dict(zip(numbers, mean.tolist(), strict=True))
    interval = dict(zip(numbers, zip(low.tolist(), high.tolist(), strict=True), strict=True))
    zero = int((maps.reshape(len(maps), -1).max(axis=1) <= 0).sum())
    return Localisation(name=name, **means, zero=zero, images=len(maps), interval=interval)
