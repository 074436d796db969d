"""Runs that the tests mine on a device: in this process or in others, and whether two runs are the same."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

from jobs.mining.config import MineConfig, build_config
from jobs.mining.mine import mine
from jobs.mining.summary import MiningSummary
from jobs.runs.layout import RunLayout
from jobs.runs.run import open_run
from tests.gpu.parts import environment
from tests.support.imports import REPOSITORY
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint

MAPS = ("mim_attention", "gradcam/mim", "gradcam++/vit_last", "hirescam/vit_proj", "legrad")
SIZE = (64, 32)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A tiny checkpoint and shards of distinct images in a folder."""

    folder: Path
    shards: int
    images_each: int

    @property
    def checkpoint(self) -> Path:
        """The model."""
        return self.folder / "model.pth"

    def write(self) -> Inputs:
        """Writes them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tiny_checkpoint(self.checkpoint, image_size=SIZE)
        for number in range(self.shards):
            first = self.images_each * number
            market_shard(self.folder / f"train-{number:04d}.tar", self.images_each, first=first)
        return self

    def options(self, run: Path, device: torch.device) -> dict[str, object]:
        """The options of mining them."""
        return {"shards": str(self.folder), "checkpoint": self.checkpoint, "output": run, "device": str(device),
                "precision": "fp32", "batch_size": 16, "workers": 1}  # fmt: skip

    def config(self, run: Path, device: torch.device, **changes: object) -> MineConfig:
        """The configuration of mining them."""
        return build_config(None, {**self.options(run, device), "maps": MAPS, **changes})

    def mine(self, run: Path, device: torch.device, **changes: object) -> MiningSummary:
        """Mines them in this process."""
        return mine(self.config(run, device, **changes))

    def start(self, run: Path, device: torch.device, number: int, count: int, said: IO[str]) -> subprocess.Popen[bytes]:
        """Starts one of `count` processes that mine them, each its block, and leads a group of its own."""
        words = [sys.executable, "-m", "jobs", "mine", *(word for name in MAPS for word in ("--maps", name))]
        for key, value in self.options(run, device).items():
            words += [f"--{key.replace('_', '-')}", str(value)]
        words += ["--array-index", str(number), "--array-count", str(count)]
        return subprocess.Popen(words, cwd=REPOSITORY, env=environment(), stdout=said, stderr=said,
                                start_new_session=True)  # fmt: skip


def published(run: Path) -> set[str]:
    """The shards of a run that are done."""
    return set(RunLayout(run).done()) if (run / "metadata").is_dir() else set()


def assert_same_run(run: Path, other: Path, shards: int) -> None:
    """Fails unless both runs have all shards, with the same keys, and maps and features equal to the byte."""
    one, two = open_run(run), open_run(other)
    names = sorted(one.layout.done())
    assert len(names) == shards and names == sorted(two.layout.done())
    for shard in names:
        assert one.read_keys(shard) == two.read_keys(shard)
        np.testing.assert_array_equal(one.read_features(shard), two.read_features(shard), err_msg=shard)
        for name in MAPS:
            np.testing.assert_array_equal(
                one.read_maps(name, shard), two.read_maps(name, shard), err_msg=f"{shard} {name}"
            )
