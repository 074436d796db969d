"""Which prompt has how much of an image: shares of mass, and of the patches where its map is the highest (no torch).

Legend: n images of a block, K maps, M patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.arrays import Float64Array
from jobs.errors import UserError
from jobs.statistics.chosen import ChosenImages
from jobs.statistics.loops import LARGEST, LEAST
from jobs.statistics.map_slices import read_slices

_IMAGES = 1024  # in a block


@dataclass(frozen=True, kw_only=True)
class PromptShares:
    """n images of a shard; `at` are their positions among the chosen images.

    mass (n, K): the share of each map's raw mass in that of all. won (n, K): the share of the patches at which the map,
    as a distribution of mass, is the highest; ties are split. NaN unless all maps of the image have mass.
    """

    shard: str
    at: slice
    mass: Float64Array
    won: Float64Array


def prompt_shares(chosen: ChosenImages, maps: Sequence[str]) -> Iterator[PromptShares]:
    """Block by block. Raises UserError where the maps are of different sizes."""
    for shard, span in chosen.spans():
        for start in range(span.start, span.stop, _IMAGES):
            at = slice(start, min(start + _IMAGES, span.stop))
            found = [np.concatenate([m for _, m in read_slices(chosen.run, n, shard, chosen.rows[at])]) for n in maps]
            if len({one.shape for one in found}) > 1:
                raise UserError(f"{shard}: the maps of the prompts are of different sizes: name some with --map")
            mass, won = shares_of(np.stack(found, axis=1).reshape(at.stop - at.start, len(maps), -1).astype(np.float64))
            yield PromptShares(shard=shard, at=at, mass=mass, won=won)


def shares_of(maps: Float64Array) -> tuple[Float64Array, Float64Array]:
    """(n, K, M) -> mass (n, K) and won (n, K), as in PromptShares."""
    mass = maps.sum(axis=2)
    good = ((mass >= LEAST) & (mass <= LARGEST)).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = maps / mass[:, :, None]
        highest = share == share.max(axis=1, keepdims=True)
        won = (highest / highest.sum(axis=1, keepdims=True)).mean(axis=2)
        of_all = mass / mass.sum(axis=1, keepdims=True)
    return np.where(good[:, None], of_all, np.nan), np.where(good[:, None], won, np.nan)
