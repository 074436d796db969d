"""Deletion and insertion curves of images, by the order of each map and by random orders.

Legend: B images, M patches, O orders (each map, then random), F fills, K steps, S scores, h w grid.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cam.faithfulness import blur, curves, descending_order, mean_colour, patch_of_pixel, removal_counts
from jobs.arrays import Float32Array
from jobs.faithfulness.plan import FILLS, FaithfulnessConfig
from jobs.faithfulness.score import ExplainedScore
from promptsg_core.model import AnyModel


@dataclass(frozen=True, kw_only=True)
class Removal:
    """How patches are removed, and the score that is followed.

    pixels (H, W): the patch of each pixel. counts (K+1,): how many patches are removed after each step. sigma: of the
    blur, in pixels.
    """

    explained: ExplainedScore
    pixels: Tensor
    counts: Tensor
    sigma: float
    random: int
    seed: int
    batch_size: int

    @classmethod
    def of(cls, config: FaithfulnessConfig, model: AnyModel, explained: ExplainedScore) -> Removal:
        """The removal of a model's patches. Raises CamError for more steps than patches."""
        (h, w), (cell, step) = model.grid, model.config.cell
        return cls(
            explained=explained,
            pixels=patch_of_pixel(model.config.image_size, cell, step, (h, w)),
            counts=removal_counts(h * w, config.steps),
            sigma=config.sigma or cell / 2,
            random=config.random,
            seed=config.seed,
            batch_size=config.batch_size,
        )

    def curves_of(self, images: Tensor, rows: pa.Table, maps: Sequence[Float32Array]) -> Float32Array:
        """(B, 3, H, W) uint8 images, their rows and (B, h, w) of each map -> (B, O, F, 2, K+1, S).

        The last order is the mean over the random ones.
        """
        by_map = torch.stack([descending_order(torch.from_numpy(values)) for values in maps], dim=1)
        by_chance = random_orders(rows, by_map.shape[2], self.random, self.seed)
        fills = {"blur": blur(images, self.sigma), "mean": mean_colour(images)}
        found = curves(
            images,
            [fills[name] for name in FILLS],
            torch.cat([by_map, by_chance], dim=1),
            self.pixels,
            self.counts,
            self.explained.score(rows, images),
            batch_size=self.batch_size,
        ).permute(2, 3, 0, 1, 4, 5)
        ordered, random = found[:, : len(maps)], found[:, len(maps) :]
        both: Float32Array = torch.cat([ordered, random.mean(dim=1, keepdim=True)], dim=1).numpy()
        return both


def random_orders(rows: pa.Table, patches: int, number: int, seed: int) -> Tensor:
    """(B, number, M) int64: orders that depend on the image and the seed, and not on the other images."""
    found = []
    for shard, tar_index in zip(rows["shard"].to_pylist(), rows["tar_index"].to_pylist(), strict=True):
        generator = np.random.default_rng([seed, zlib.crc32(shard.encode()), tar_index])
        found.append([generator.permutation(patches) for _ in range(number)])
    return torch.from_numpy(np.array(found, np.int64))
