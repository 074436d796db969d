"""Images per second of the model, by precision and batch: seven maps, and a bare forward pass beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from cam.targets import PREDICTED
from jobs.benchmark.timing import median_seconds
from jobs.memory import is_out_of_memory
from jobs.mining.passes.choice import choose_pass
from promptsg_core.model import AnyModel
from tests.gpu.parts import Kept
from tests.gpu.pictures import decoded, drawn_jpegs, many
from tests.gpu.setting import Setting
from tests.gpu.subjects import KNOWN_PRECISIONS, SEVEN, job_of, measured_subject

BATCHES, SMALL_BATCHES = (64, 128, 256, 512, 1024), (2, 4)
_FIRST = ("fp16", "bf16")  # what jobs run in, so measured first
_SECONDS, _SMALL_SECONDS = 0.3, 0.02


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Images per second of seven maps and of the forward pass alone, from pixels that are on the device.

    The seven maps are of the pass that a job runs, on a GPU from a CUDA graph; the forward pass is launched operator by
    operator. `first_seconds` is what the first call took. `peak_bytes` is the memory of the GPU at the peak, weights
    included.
    """

    precision: str
    batch: int
    seven_maps: float
    forward: float
    first_seconds: float
    peak_bytes: int | None


def measure(setting: Setting, kept: Kept) -> None:
    """Keeps a Speed for each precision and batch, and by precision the batch that did not fit any more."""
    device, subject = torch.device(setting.device), measured_subject(setting)
    pixels = decoded(drawn_jpegs(24 if setting.small else 256), setting.image_size)
    found: list[dict[str, object]] = []
    too_large: dict[str, int] = {}
    for precision in sorted(KNOWN_PRECISIONS, key=lambda name: name not in _FIRST):
        model = subject.load(setting.checkpoint, device, precision)
        for batch in SMALL_BATCHES if setting.small else BATCHES:
            try:
                speed = _speed(
                    model, precision, many(pixels, batch).to(device), _SMALL_SECONDS if setting.small else _SECONDS
                )
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                too_large[precision] = batch
                break
            found.append(asdict(speed))
            kept.put({"speeds": found, "out_of_memory_at": too_large})
            print(speed)
        del model
        if device.type == "cuda":
            torch.cuda.empty_cache()
    kept.put({"speeds": found, "out_of_memory_at": too_large})


def _speed(model: AnyModel, precision: str, images: Tensor, seconds: float) -> Speed:
    device, count = images.device, len(images)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    run = choose_pass(model, job_of(SEVEN, count))
    began = time.perf_counter()
    run(images, PREDICTED)
    if on_gpu:
        torch.cuda.synchronize(device)
    first = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else None

    def rate(work: Callable[[], object]) -> float:
        work()  # warms up
        return round(count / median_seconds(work, device, seconds), 1)

    return Speed(
        precision=precision,
        batch=count,
        seven_maps=rate(lambda: run(images, PREDICTED)),
        forward=rate(lambda: model(images)),
        first_seconds=round(first, 3),
        peak_bytes=peak,
    )
