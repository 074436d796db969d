"""A small run that workers can work on, and what follows and stops them."""

from __future__ import annotations

from pathlib import Path

from jobs.launch.drain import Drain
from jobs.mining.config import MineConfig
from jobs.mining.model import LoadedModel, load
from jobs.mining.request import request_of
from jobs.mining.worker import Worker
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, create_manifest
from jobs.shards.urls import expand_shards
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint

SHARDS, IMAGES = 3, 8


def small_inputs(folder: Path) -> Path:
    """A checkpoint and three shards of eight images."""
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32))
    for number in range(SHARDS):
        market_shard(folder / f"s-{number}.tar", IMAGES, first=IMAGES * number)
    return folder


class Mine:
    """A run that workers can work on: three shards of eight images, in batches of four."""

    def __init__(self, inputs: Path, output: Path) -> None:
        self.config = MineConfig(
            shards=(str(inputs),),
            checkpoint=inputs / "m.pth",
            output=output,
            maps=("mim_attention",),
            device="cpu",
            precision="fp32",
            batch_size=4,
        )
        self.shards = expand_shards(self.config.shards)
        self.loaded: LoadedModel = load(self.config, (), self.shards)
        self.layout = RunLayout(output)
        request = request_of(self.config, self.shards, ())
        self.manifest: Manifest = create_manifest(self.layout, request, self.loaded.resolved)

    def worker(self, **options: object) -> Worker:
        """A worker of its own for the same run."""
        model, targets = self.loaded.model, self.loaded.targets
        return Worker(model, self.config, self.manifest, targets, **options)  # type: ignore[arg-type]


class Told:
    """A progress that writes down what it is told, and the drain that stops a worker after some batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, bool]] = []
        self.sizes: list[int | None] = []

    def advance(self, images: int, position: int | None) -> None:
        """Notes how many images a batch had, and whether it was told where the shard's reading stands."""
        self.batches.append((images, position is not None))

    def finish_shard(self, size: int | None) -> None:
        """Notes the size."""
        self.sizes.append(size)


class StopAfter(Drain):
    """Requested after some batches; `time_left` says whether the rest of a shard fits into it."""

    def __init__(self, told: Told, batches: int, *, time_left: bool) -> None:
        super().__init__()
        self.told, self.batches, self.time_left = told, batches, time_left
        self.asked: list[float | None] = []

    @property
    def requested(self) -> str | None:
        """As of `Drain`: a signal after so many batches."""
        return "SIGTERM" if len(self.told.batches) >= self.batches else None

    def allows(self, seconds: float | None) -> bool:
        """As of `Drain`; notes what was asked."""
        self.asked.append(seconds)
        return self.time_left and seconds is not None
