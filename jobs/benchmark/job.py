"""Mining as a whole, and its writing, timed on a temporary run: tar to published shard."""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.benchmark.stages import NAME, Read, run_model
from jobs.errors import UserError
from jobs.mining.config import MineConfig
from jobs.mining.request import request_of
from jobs.runs.manifest import Manifest, create_manifest
from jobs.shards.samples import Sample
from jobs.shards.urls import Shard, expand_shards

if TYPE_CHECKING:
    import torch

    from jobs.mining.model import Loaded
    from jobs.runs.events import ShardReport


def _temporary_run(folder: Path, config: MineConfig, loaded: Loaded, shards: Sequence[Shard]) -> Manifest:
    from jobs.runs.layout import RunLayout

    return create_manifest(RunLayout(folder), request_of(config, shards), loaded.resolved)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for name in ("maps", "metadata") for path in (folder / name).iterdir())


def rate_of_writing(
    config: MineConfig, loaded: Loaded, shards: Sequence[Shard], images: torch.Tensor, batches: int
) -> float:
    """Images per second from results in memory to a published shard: those of uint8 (B, 3, H, W), `batches` times."""
    from jobs.runs.layout import RunLayout
    from jobs.runs.writer import Writer

    size, results = len(images), run_model(loaded, images, config)
    reports: list[ShardReport] = []
    with tempfile.TemporaryDirectory(dir=config.output) as name:
        folder = Path(name)
        manifest = _temporary_run(folder, config, loaded, shards)
        started = time.perf_counter()
        with Writer(RunLayout(folder), manifest, 1.0, reports.append) as writer:
            writer.begin(NAME)
            for batch in range(batches):
                rows = range(batch * size, (batch + 1) * size)
                writer.add([Sample(key=str(row), tar_index=row) for row in rows], results)
            writer.end()
        seconds = time.perf_counter() - started
        _refuse_failure([report.error for report in reports])
        return batches * size / seconds


class _Clock:
    """In the place of a progress bar: notes when images are done."""

    def __init__(self) -> None:
        self.times: list[tuple[float, int]] = []

    def advance(self, images: int, position: int | None) -> None:
        self.times.append((time.perf_counter(), images))

    def finish_shard(self, size: int | None) -> None:
        pass


def rate_of_job(
    config: MineConfig, loaded: Loaded, shards: Sequence[Shard], read: Read, batches: int
) -> tuple[float, int]:
    """Images per second of a worker, tar to published shard, and the bytes that one image takes on disk.

    Timed from the end of the first batch: starting the decoding processes is no matter in a long job.
    """
    from jobs.launch.drain import Drain
    from jobs.mining.worker import Worker
    from jobs.shards.reader import default_workers

    device, clock = loaded.model.image_encoder.proj.device, _Clock()
    workers = default_workers(device.type) if config.workers is None else config.workers
    with tempfile.TemporaryDirectory(dir=config.output) as name:
        folder, tar = Path(name) / "run", Path(name) / f"{NAME}.tar"
        pack(tar, read, (batches + 1) * config.batch_size)
        manifest = _temporary_run(folder, config, loaded, shards)
        there = config.model_copy(update={"output": folder, "max_failed_fraction": 1.0})
        worker = Worker(loaded.model, there, manifest, loaded.targets, progress=clock, drain=Drain())  # type: ignore[arg-type]
        summary = worker.run(expand_shards([str(tar)]), workers)
        ended = time.perf_counter()
        _refuse_failure([report.error for report in summary.failed_shards])
        images = sum(count for _, count in clock.times[1:])
        return images / (ended - clock.times[0][0]), _size_of(folder) // max(1, summary.images)


def pack(path: Path, read: Read, count: int) -> None:
    """A tar of `count` samples: those that were read, over and over under new keys."""
    with tarfile.open(path, "w") as tar:
        for number, data in enumerate(islice(cycle(read.images), count)):
            info = tarfile.TarInfo(f"{number:08d}.jpg")  # the decoder looks at the bytes, not at the name
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _refuse_failure(errors: Sequence[str | None]) -> None:
    if found := [error for error in errors if error is not None]:
        raise UserError(f"writing a run for the measurement failed: {found[0]}")
