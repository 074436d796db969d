"""The stages of mining, each timed alone: reading, decoding, towers, head and maps; and the best batch size."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import UserError
from jobs.mining.config import MineConfig
from jobs.shards.samples import Sample, read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard

if TYPE_CHECKING:
    import torch

    from jobs.mining.model import Loaded
    from jobs.runs.shard_output import Results
    from promptsg_core.model import PromptSG

LARGEST_BATCH = 256
_GAIN = 1.03  # anything less than this over the best smaller batch is noise
NAME = "sample"  # the temporary shard


@dataclass(frozen=True, kw_only=True)
class Tried:
    """The model's images per second at one batch size, and the process's (or the GPU's) peak memory in bytes then."""

    batch_size: int
    images_per_second: float
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Read:
    """The first samples of the shards: rows, bytes of their images, and how many images there are in all, about."""

    samples: list[Sample]
    images: list[bytes]
    total: int
    seconds: float


def read_some(shards: Sequence[Shard], limit: int) -> Read:
    """The first `limit` samples with an image. The total is exact if that is all, else told by the shards' sizes."""
    samples, images, read_bytes, ended = [], [], 0, 0
    started = time.perf_counter()
    for shard in shards:
        with TarReader(shard) as tar:
            rows = read_samples(tar, shard.name)
            for sample, data in rows:
                if data is not None:
                    samples.append(sample)
                    images.append(data)
                if len(images) == limit:
                    break
            else:
                ended += 1
            read_bytes += tar.bytes_read
        if len(images) == limit:
            break
    seconds = time.perf_counter() - started
    if not images:
        raise UserError(f"the {len(shards)} shards hold no image that could be measured with")
    sizes = [shard.size for shard in shards]
    if ended == len(shards):
        total = len(images)
    elif None in sizes:  # not local: as if the shards were all as far read as these
        total = round(len(images) / max(1, ended + 1) * len(shards))
    else:
        total = max(len(images), round(len(images) * sum(size or 0 for size in sizes) / max(1, read_bytes)))
    return Read(samples=samples, images=images, total=total, seconds=seconds)


def decode_all(read: Read, size: tuple[int, int], config: MineConfig) -> tuple[torch.Tensor, float]:
    """uint8 (n, 3, H, W) of the images that decode, and the seconds that it took on one thread."""
    import torch

    from jobs.shards.reader import Decoding, decode_batch

    how = Decoding(image_size=size, interpolation=config.interpolation, max_image_pixels=config.max_image_pixels)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a decoding process has it
    try:
        decode_batch(read.images[:8], how)
        pixels, outcomes, seconds = decode_batch(read.images, how)
    finally:
        torch.set_num_threads(threads)
    if not len(pixels):
        raise UserError(f"none of the first {len(read.images)} images decodes; the first says: {outcomes[0][1]}")
    return pixels, seconds


def repeated(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """(n, 3, H, W) -> (size, 3, H, W): the images over and over."""
    import torch

    return pixels[torch.arange(size) % len(pixels)]


def try_batch_sizes(loaded: Loaded, pixels: torch.Tensor, config: MineConfig, seconds: float) -> list[Tried]:
    """1, 2, 4, ... 256 images, until two sizes in a row gain nothing or the memory ends."""
    import torch

    device = loaded.model.image_encoder.proj.device
    tried: list[Tried] = []
    size, best, idle = 1, 0.0, 0
    while size <= LARGEST_BATCH and idle < 2 and _fits(tried, device):
        images = repeated(pixels, size)
        try:
            _, peak = peak_memory(partial(run_model, loaded, images, config), device)  # warms up, too
            rate = rate_of_model(loaded, images, config, seconds / 2)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        idle = 0 if rate > _GAIN * best else idle + 1
        best = max(best, rate)
        tried.append(Tried(batch_size=size, images_per_second=rate, peak_bytes=peak))
        size *= 2
    if not tried:
        raise UserError(f"{device} has not the memory for one image: try --precision bf16 or another device")
    return tried


def rate_of_model(loaded: Loaded, images: torch.Tensor, config: MineConfig, seconds: float) -> float:
    """Images per second of `run_model` on uint8 (B, 3, H, W), images and results in the host's memory."""
    device = loaded.model.image_encoder.proj.device
    return len(images) / median_seconds(partial(run_model, loaded, images, config), device, seconds)


def _fits(tried: Sequence[Tried], device: torch.device) -> bool:
    """Whether twice the last batch will surely fit into the host's memory; a GPU says so itself."""
    meminfo = Path("/proc/meminfo")
    if device.type == "cuda" or not tried or tried[-1].peak_bytes is None or not meminfo.exists():
        return True
    return tried[-1].peak_bytes < 1024 * _kibibytes(meminfo, "MemAvailable")


def run_model(loaded: Loaded, images: torch.Tensor, config: MineConfig) -> Results:
    """uint8 (B, 3, H, W) on the host -> results on the host: what a worker does with one batch."""
    from jobs.mining.worker import mine_batch
    from jobs.shards.reader import Batch

    samples = [Sample(key=str(row), tar_index=row) for row in range(len(images))]
    return mine_batch(loaded.model, Batch(Shard(name=NAME, url="", size=None), samples, images), config, loaded.targets)


class Halfway:
    """A model whose `encode` has run already, so that what comes after it can be timed alone."""

    def __init__(self, model: PromptSG, images: torch.Tensor) -> None:
        self.model, self.encoded = model, model.encode(images)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def encode(self, images: torch.Tensor) -> Any:
        """What was encoded before."""
        return self.encoded


def rates_of_stages(model: PromptSG, images: torch.Tensor, config: MineConfig, seconds: float) -> dict[str, float]:
    """Images per second of the model's three parts, on uint8 (B, 3, H, W)."""
    import torch

    from cam.extract import extract_maps

    halfway, device = Halfway(model, images), model.image_encoder.proj.device
    v, form = halfway.encoded.v, config.gradcam_plus_plus
    with torch.no_grad():
        stages: dict[str, Callable[[], object]] = {
            "image tower": torch.no_grad()(lambda: model.image_encoder(model.prepare(images))),
            "text tower": torch.no_grad()(lambda: model.encode_text(v)),
            "head and maps": lambda: extract_maps(halfway, images, maps=config.maps, gradcam_plus_plus=form),
        }
    rates = {}
    for name, stage in stages.items():
        stage()
        rates[name] = len(images) / median_seconds(stage, device, seconds)
    return rates


def median_seconds(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The median time of at least two calls, of more while `seconds` last."""
    import torch

    taken: list[float] = []
    while len(taken) < 2 or sum(taken) < seconds:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def peak_memory(work: Callable[[], object], device: torch.device) -> tuple[int | None, int | None]:
    """Bytes held before and at the peak of one call: allocated on the GPU, or resident in the process.

    (None, None) where the system does not tell, after the call all the same.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return before, torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that the allocator kept of earlier work would hide this one's
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    except (OSError, AttributeError):
        work()
        return None, None
    before = 1024 * _kibibytes(status, "VmRSS")
    work()
    return before, 1024 * _kibibytes(status, "VmHWM")


def _kibibytes(file: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(field + ":"))
