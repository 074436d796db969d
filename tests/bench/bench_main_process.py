"""What mining costs the main process beside a GPU: `python -m tests.bench.bench_main_process --batch 256 --json FILE`.

The GPU is simulated by a wait. The reader with its processes, the worker's loop and the writer are the real ones; only
`extract_maps` is replaced: it sleeps as long as a GPU would take, and hands out results of the right sizes. The shards
are made here, of drawn JPEGs of 128x64 with a JSON each. Times are processor times, which busy
neighbours change less.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from cam.extract import Extraction
from cam.measures import MEASURES
from jobs.mining.config import MineConfig
from jobs.mining.model import load
from jobs.mining.request import request_of
from jobs.mining.worker import Worker
from jobs.runs import metadata_rows
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import create_manifest
from jobs.shards import reader as reader_module
from jobs.shards.decoding import DecodedBatch, DecodedSize, Decoding, decode_batch
from jobs.shards.reading.batches import RawBatch, cut
from jobs.shards.urls import Shard, expand_shards
from tests.support.shard_files import market_key, sample_members, write_tar
from tests.support.tiny import tiny_checkpoint

MAPS = (
    "mim_attention", "gradcam/mim", "gradcam++/mim", "gradcam/vit_proj", "gradcam++/vit_proj", "hirescam/vit_proj",
    "gradcam/bottleneck",
)  # fmt: skip
IMAGE_SIZE, GRID, FEATURES = (256, 128), (16, 8), 1280
MODEL_SIZE = (64, 32)  # of a tiny model with this grid; it never sees an image
_PICTURES = 64
_MEASURED = 2048  # images, for the parts that are timed alone


@dataclass(frozen=True)
class FreeDecoding(Decoding):
    """Costs nothing: the pixels of the images are whatever lies in the slot."""

    def decode(self, images: Sequence[bytes], into: Tensor | None = None) -> DecodedBatch:
        """As many pixels as there are images."""
        pixels = torch.empty((len(images), 3, *self.image_size), dtype=torch.uint8) if into is None else into
        return DecodedBatch(pixels[: len(images)], [DecodedSize(64, 128)] * len(images), 0.0)


class Gpu:
    """Stands for `extract_maps`: waits, then hands out the same random results."""

    def __init__(self, batch: int, rate: float) -> None:
        made = torch.Generator().manual_seed(0)
        self.rate = rate
        self.maps = {name: torch.rand((batch, *GRID), generator=made) for name in MAPS}
        self.features = torch.randn((batch, FEATURES), generator=made)

    def __call__(self, model: object, images: Tensor, **_: object) -> Extraction:
        """Results for images (B, 3, H, W)."""
        count = len(images)
        time.sleep(count / self.rate)
        return Extraction(
            maps={name: maps[:count] for name, maps in self.maps.items()},
            score=torch.zeros(count),
            predicted=torch.zeros(count, dtype=torch.int64),
            probability=torch.full((count,), 0.5),
            features=self.features[:count],
            attention_heads=torch.zeros((count, 1, *GRID)),
        )


class Clock:
    """In the place of a progress bar: notes what this process has used when the first batch is done, and the images."""

    def __init__(self) -> None:
        self.first = self.images = 0
        self.began = self.cpu = 0.0

    def advance(self, images: int, position: int | None) -> None:
        """Counts a batch."""
        self.images += images
        if not self.first:
            self.first, self.began, self.cpu = images, time.perf_counter(), time.process_time()

    def finish_shard(self, size: int | None) -> None:
        """Nothing is noted of shards."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Microseconds are processor time. `rate_by_processes` is what the busiest process allows, were no core shared."""

    batch: int
    maps: int
    images: int
    workers: int
    free_decoding: bool
    measures_here: bool
    main_process_us_per_image: float
    images_per_second: float
    read_us_per_image: float
    decode_us_per_image: float
    rate_by_processes: float
    load: float


def make_shards(folder: Path, images: int, shards: int) -> None:
    """Tars of drawn JPEGs of 128x64."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(_PICTURES):
        coarse = cv2.resize(rng.integers(0, 256, (16, 8, 3), np.uint8), (64, 128), interpolation=cv2.INTER_CUBIC)
        pictures.append(cv2.imencode(".jpg", coarse, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    each = images // shards
    for shard in range(shards):
        members = []
        for number in range(shard * each, (shard + 1) * each):
            facts = {"pid": 1 + number // 20, "camid": number % 6, "frame": number, "split": "gallery"}
            key = market_key(1 + number // 20, number % 6, number)
            members += sample_members(key, pictures[number % _PICTURES], **facts)
        write_tar(folder / f"gallery-{shard:06d}.tar", members)


def run(folder: Path, batch: int, workers: int, rate: float, *, free: bool, measures_here: bool) -> Figures:
    """Mines all shards of a folder with a simulated GPU that passes `rate` images a second."""
    shards = expand_shards([str(folder)])
    tiny_checkpoint(folder / "model.pth", image_size=MODEL_SIZE)
    config = MineConfig(
        shards=(str(folder),), checkpoint=folder / "model.pth", output=folder / "RUN", maps=MAPS, device="cpu",
        precision="fp32", batch_size=batch,
    )  # fmt: skip
    loaded = load(config, (), shards)
    manifest = create_manifest(RunLayout(config.output), request_of(config, shards, ()), loaded.resolved)
    simulate(Gpu(batch, rate), FreeDecoding if free else Decoding)
    if not measures_here:
        take_measures_from_the_gpu(batch)
    clock = Clock()
    summary = Worker(loaded.model, config, manifest, loaded.targets, loaded.cameras, progress=clock).run(
        shards, workers
    )
    cpu, seconds = time.process_time() - clock.cpu, time.perf_counter() - clock.began
    assert summary.images == clock.images, "every image was mined"
    images = clock.images - clock.first
    read, decode = read_and_decode(shards[0], batch)
    main = 1e6 * cpu / images
    return Figures(
        batch=batch, maps=len(MAPS), images=images, workers=workers, free_decoding=free, measures_here=measures_here,
        main_process_us_per_image=main, images_per_second=images / seconds, read_us_per_image=read,
        decode_us_per_image=decode, rate_by_processes=1e6 / max(main, read, 0 if free else decode / workers),
        load=os.getloadavg()[0],
    )  # fmt: skip


def simulate(gpu: Gpu, decoding: type[Decoding]) -> None:
    """Puts the stand-ins into the places of what they stand for, in this process alone."""
    for name, module in list(sys.modules.items()):
        if name.startswith("jobs.mining.") and hasattr(module, "extract_maps"):
            vars(module)["extract_maps"] = gpu
    vars(reader_module)["Decoding"] = lambda **options: decoding(**{**options, "image_size": IMAGE_SIZE})


def take_measures_from_the_gpu(batch: int) -> None:
    """Lets the writer find the measures of the maps ready, as they come with the results from a GPU."""
    ready = np.random.default_rng(0).random((len(MAPS), len(MEASURES), batch), np.float32)
    vars(metadata_rows)["measure_stack"] = lambda maps, _: ready[:, :, : maps.shape[1]]


def read_and_decode(shard: Shard, batch: int) -> tuple[float, float]:
    """What the reading and a decoding process use for an image, in microseconds of processor time."""
    torch.set_num_threads(1)
    how = Decoding(image_size=IMAGE_SIZE)
    batches = [item for item in cut(shard, batch) if isinstance(item, RawBatch)][: max(1, _MEASURED // batch)]
    count = sum(len(item.images) for item in batches)
    into = torch.empty((batch, 3, *IMAGE_SIZE), dtype=torch.uint8)
    whole = sum(len(item.images) for item in cut(shard, batch) if isinstance(item, RawBatch))
    read = _least(lambda: [None for _ in cut(shard, batch)]) / whole
    return read, _least(lambda: [decode_batch(item.images, how, into) for item in batches]) / count


def _least(work: Callable[[], object]) -> float:
    """The least of three processor times, in microseconds."""
    used = []
    for _ in range(3):
        began = time.process_time()
        work()
        used.append(1e6 * (time.process_time() - began))
    return min(used)


def main() -> None:
    """Makes shards, mines them, prints the figures and writes them to a file."""
    parser = argparse.ArgumentParser(prog="bench_main_process", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--images", type=int, default=20_480)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=12_800, help="images a second of the simulated GPU")
    parser.add_argument("--free-decoding", action="store_true", help="hand on ready pixels")
    parser.add_argument(
        "--measures-here", action="store_true", help="let the writer measure the maps, as without a GPU"
    )
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_shards(Path(folder), asked.images, asked.shards)
        found = run(
            Path(folder), asked.batch, asked.workers, asked.rate, free=asked.free_decoding,
            measures_here=asked.measures_here,
        )  # fmt: skip
    text = json.dumps(asdict(found), indent=1)
    print(text)
    if asked.json is not None:
        asked.json.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
