"""A run with single heads of its attention, over tars of textured images, made without a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from jobs.runs.maps_file import HEADS
from jobs.runs.run import Run
from tests.runs.test_query import GRID, MAPS, make_run, random_maps
from tests.support.shard_files import market_shard

COUNT = 5  # heads


def maps_with_heads(shard: str, number: int) -> Mapping[str, NDArray[np.float32]]:
    """As `random_maps`, and heads that sum to 1 each, of which the attention is the mean."""
    rng = np.random.default_rng([9, *shard.encode(), number])
    heads = rng.gamma(0.5, 1, (COUNT, *GRID)).astype(np.float32)
    heads /= heads.sum(axis=(1, 2), keepdims=True)
    return {**random_maps(shard, number), MAPS[0]: heads.mean(axis=0), HEADS: heads}


def reversed_heads(shard: str, number: int) -> Mapping[str, NDArray[np.float32]]:
    """The same heads, the last one first."""
    found = maps_with_heads(shard, number)
    return {**found, HEADS: found[HEADS][::-1]}


def run_with_heads(folder: Path, name: str = "RUN", reverse: bool = False) -> Run:
    """A run of 20 query and 12 gallery images in `folder`/`name`, over the tars in `folder`/tars."""
    if not (folder / "tars").exists():
        market_shard(folder / "tars/query-0.tar", 20)
        market_shard(folder / "tars/gallery-0.tar", 12, first=100)
    maps = reversed_heads if reverse else maps_with_heads
    return make_run(folder / name, folder / "tars", maps, heads=True)


def heads_in(run: Run, shard: str) -> NDArray[np.float32]:
    """(N, heads, h, w) what h5py alone reads."""
    with h5py.File(run.layout.shard_maps(shard)) as file:
        return np.asarray(file["maps/mim_attention_heads"][:])
