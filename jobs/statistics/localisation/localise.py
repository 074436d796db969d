"""How well a run's maps lie on the persons of images whose shards hold masks (no torch)."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from cam.placement import GridPlacement
from jobs.arrays import BoolArray, Float64Array, FloatArray, Int64Array
from jobs.errors import UserError
from jobs.identity import NOBODY, identity_codes, identity_columns
from jobs.image_names import MASK_SUFFIX
from jobs.runs.run import Run
from jobs.shards.samples import OK
from jobs.statistics.localisation.mask_scores import covered_share, mask_auc, mass_ratio, pointing
from jobs.statistics.resamples import mean_over_identities


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """Means over the images that have the map; `interval` holds 95 % bootstrap intervals over identities.

    ratio: the map's mass on the person over the person's share of the area. pointing: how often the highest patch is on
    the person. auc: the probability that a point on the person has a higher value than one beside. zero: all-zero maps.
    """

    name: str
    ratio: float
    pointing: float
    auc: float
    zero: int
    images: int
    interval: dict[str, tuple[float, float]]


def read_masks(shards: Sequence[Path]) -> dict[str, BoolArray]:
    """key -> (H, W) mask of the person, any part of it. Raises UserError if the shards hold none."""
    masks: dict[str, BoolArray] = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(MASK_SUFFIX) and (file := tar.extractfile(member)) is not None:
                    labels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
                    masks[member.name.removesuffix(MASK_SUFFIX)] = np.asarray(labels) > 0
    if not masks:
        raise UserError(f"{', '.join(map(str, shards))}: no masks in these shards")
    return masks


def localise(run: Run, masks: Mapping[str, BoolArray], seed: int = 0) -> list[Localisation]:
    """Scores of every map of the run on images of known persons, then of the fixed prior and each map's own average.

    The prior is the average mask, the same for every image: it knows only where persons usually stand. A map that is
    no better than its own average tells nothing about the single image.

    Raises UserError if no image of a known person has a mask.
    """
    rows, people = _persons_with_mask(run, masks)
    maps = {name: run.maps_of(name, rows) for name in run.maps}
    h, w = next(iter(maps.values())).shape[1:]
    placement = run.manifest.placement or GridPlacement.even((h, w))
    placement.check((h, w))
    share = np.stack([covered_share(masks[key], placement) for key in rows["key"].to_pylist()])
    found = [_score(name, values, share, people, seed) for name, values in maps.items()]
    found.append(_score("fixed prior", _fixed(share), share, people, seed))
    found += [_score(f"average of {name}", _fixed(values), share, people, seed) for name, values in maps.items()]
    return found


def _persons_with_mask(run: Run, masks: Mapping[str, BoolArray]) -> tuple[pa.Table, Int64Array]:
    """The rows (shard, key, h5_row) of images of known persons that have a mask, and their identities' codes."""
    columns = list(dict.fromkeys(["shard", "key", "h5_row", *identity_columns(run.schema.names)]))
    table = run.read_metadata(columns, where=ds.field("status") == OK)
    table = table.filter(pc.is_in(table["key"], value_set=pa.array(list(masks), pa.string())))
    codes = identity_codes(table).codes
    known = codes != NOBODY
    if not known.any():
        raise UserError(f"{run.layout.root} has no image of a known person that has a mask")
    return table.filter(pa.array(known)), codes[known]


def _fixed(values: FloatArray) -> FloatArray:
    """The mean of all maps, in place of each."""
    return np.broadcast_to(values.mean(axis=0), values.shape)


def _score(name: str, maps: FloatArray, share: Float64Array, people: Int64Array, seed: int) -> Localisation:
    numbers = {"ratio": mass_ratio(maps, share), "pointing": pointing(maps, share), "auc": mask_auc(maps, share)}
    mean, low, high = mean_over_identities(np.stack(list(numbers.values()), axis=1), people, seed=seed)
    means = dict(zip(numbers, mean.tolist(), strict=True))
    interval = dict(zip(numbers, zip(low.tolist(), high.tolist(), strict=True), strict=True))
    zero = int((maps.reshape(len(maps), -1).max(axis=1) <= 0).sum())
    return Localisation(name=name, **means, zero=zero, images=len(maps), interval=interval)
