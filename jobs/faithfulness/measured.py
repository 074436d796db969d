"""What a faithfulness measurement found, image by image.

Legend: N images, O orders (each map, then random), F fills, K steps, S scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.arrays import Float32Array, Float64Array, Int64Array
from jobs.identity import NOBODY, identities


@dataclass(frozen=True, kw_only=True)
class MapCorrelation:
    """How a stored map correlates with the map of a model with random weights.

    `random` says what is random; `values` (n, 2) are Pearson's and Spearman's coefficient of each image.
    """

    random: str
    map: str
    values: Float64Array


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Curves and correlations.

    rows: the metadata of the N images. curves (N, O, F, 2, K+1, S): deletion, then insertion; the random orders are
    averaged to one. counts (K+1,): how many patches are removed after each step. correlations: of the n images whose
    numbers are `checked`. zero_maps: all-zero maps, by map. scores, title: of what the score is. sigma: of the blur, in
    pixels.
    """

    rows: pa.Table
    orders: tuple[str, ...]
    curves: Float32Array
    counts: Int64Array
    correlations: tuple[MapCorrelation, ...]
    checked: Int64Array
    zero_maps: Mapping[str, int]
    scores: tuple[str, ...]
    title: str
    sigma: float
    precision: str
    checkpoint_sha256: str

    def areas(self) -> Float64Array:
        """(N, O, F, 2): the area under each curve of the first score, over the share of removed patches."""
        import torch

        from cam.faithfulness import area

        found: Float64Array = area(torch.from_numpy(self.curves[..., 0]), torch.from_numpy(self.counts)).numpy()
        return found

    def people(self) -> Int64Array:
        """(N,): a number for each identity, by rising pid, and NOBODY for images that show no known person."""
        names = identities(self.rows).to_pylist()
        pids = dict(zip(names, self.rows["pid"].to_pylist(), strict=True))
        known = sorted((name for name in pids if name is not None), key=lambda name: (pids[name] or 0, name))
        numbers = {name: number for number, name in enumerate(known)}
        return np.array([NOBODY if name is None else numbers[name] for name in names], np.int64)


def count_people(people: Int64Array) -> int:
    """How many identities there are."""
    return len(set(people.tolist()) - {NOBODY})
