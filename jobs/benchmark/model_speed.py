"""The speed of the model: as a whole, of its parts, and at several batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from jobs.benchmark.report import TriedBatch
from jobs.benchmark.samples import made_caption, repeated
from jobs.benchmark.timing import available_memory, median_seconds, peak_memory
from jobs.errors import UserError
from jobs.mining.config import MineConfig
from jobs.shards.samples import Sample
from jobs.shards.urls import Shard

if TYPE_CHECKING:
    import torch

    from jobs.mining.model import LoadedModel
    from jobs.runs.metadata_rows import Results
    from promptsg_core.cameras import Cameras
    from promptsg_core.model import AnyModel
    from promptsg_core.prompts import Captions

LARGEST_BATCH = 256
_GAIN = 1.03  # a smaller gain over the best smaller batch is noise
_NO_GAINS = 2  # so many sizes in a row without a gain end the search
SHARD = Shard(name="sample", url="", size=None)  # the temporary shard


@dataclass(frozen=True, kw_only=True)
class PartRates:
    """Images per second of the model's parts, each alone; `text_tower` is None for a model that reads no texts."""

    image_tower: float
    text_tower: float | None
    head_and_maps: float


def run_model(loaded: LoadedModel, images: torch.Tensor, config: MineConfig) -> Results:
    """uint8 (B, 3, H, W) on the host -> results on the host: what a worker does with a batch."""
    from jobs.mining.batch import mine_batch
    from jobs.shards.reader import Batch

    samples = _samples(loaded, len(images), config)
    return mine_batch(loaded.model, Batch(SHARD, samples, images), config, loaded.targets, loaded.cameras)


def _samples(loaded: LoadedModel, count: int, config: MineConfig) -> list[Sample]:
    """Samples of no data set, with captions where the request reads them."""
    captions = loaded.model.reads_captions(config.target, config.maps)
    return [Sample(key=str(n), tar_index=n, caption=made_caption(n) if captions else None) for n in range(count)]


def rate_of_model(loaded: LoadedModel, images: torch.Tensor, config: MineConfig, seconds: float) -> float:
    """Images per second of `run_model` on uint8 (B, 3, H, W), measured for about `seconds`."""
    return len(images) / median_seconds(partial(run_model, loaded, images, config), loaded.device, seconds)


def rates_of_parts(loaded: LoadedModel, images: torch.Tensor, config: MineConfig, seconds: float) -> PartRates:
    """Images per second of the model's parts on uint8 (B, 3, H, W), each measured for about `seconds`."""
    from cam.extract import extract_maps

    samples = _samples(loaded, len(images), config)
    cameras: Cameras | None = "mean" if loaded.model.camera_rows else None
    captions = [sample.caption for sample in samples] if samples[0].caption is not None else None
    encoded = cast("AnyModel", EncodedModel(loaded.model, images, cameras, captions))
    target, form = loaded.targets.of(samples).target, config.gradcam_plus_plus

    def head_and_maps() -> None:
        extract_maps(encoded, images, config.maps, target, form, head=config.head, cameras=cameras, captions=captions)

    rates = {}
    for name, part in {**loaded.model.encode_parts(images), "head and maps": head_and_maps}.items():
        part()  # warms up
        rates[name] = len(images) / median_seconds(part, loaded.device, seconds)
    return PartRates(
        image_tower=rates["image tower"], text_tower=rates.get("text tower"), head_and_maps=rates["head and maps"]
    )


def try_batch_sizes(
    loaded: LoadedModel, pixels: torch.Tensor, config: MineConfig, seconds: float
) -> tuple[TriedBatch, ...]:
    """The speed at 1, 2, 4, ... 256 images, until two sizes in a row gain nothing or the memory does not suffice.

    Raises UserError if it does not suffice for one image.
    """
    import torch

    tried: list[TriedBatch] = []
    size, best, without_gain = 1, 0.0, 0
    while size <= LARGEST_BATCH and without_gain < _NO_GAINS and _fits(tried, loaded.device):
        try:
            tried.append(_try_batch_size(loaded, repeated(pixels, size), config, seconds))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        rate = tried[-1].images_per_second
        without_gain = 0 if rate > _GAIN * best else without_gain + 1
        best = max(best, rate)
        size *= 2
    if not tried:
        raise UserError(f"{loaded.device} has not the memory for one image: try --precision bf16 or another device")
    return tuple(tried)


def _try_batch_size(loaded: LoadedModel, images: torch.Tensor, config: MineConfig, seconds: float) -> TriedBatch:
    use = peak_memory(partial(run_model, loaded, images, config), loaded.device)  # also warms up
    rate = rate_of_model(loaded, images, config, seconds / 2)
    return TriedBatch(batch_size=len(images), images_per_second=rate, peak_bytes=None if use is None else use.peak)


def _fits(tried: Sequence[TriedBatch], device: torch.device) -> bool:
    """Whether twice the last batch surely fits into the host's memory. A GPU raises an error by itself."""
    available = available_memory()
    if device.type == "cuda" or not tried or tried[-1].peak_bytes is None or available is None:
        return True
    return tried[-1].peak_bytes < available


class EncodedModel:
    """A model that has encoded a batch already, so that what comes after encoding can be timed alone.

    It stands for the model: every attribute but `encode` is the model's.
    """

    def __init__(
        self, model: AnyModel, images: torch.Tensor, cameras: Cameras | None = None, captions: Captions | None = None
    ) -> None:
        self.model = model
        self.encoded = model.encode(images, cameras, captions)

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def encode(self, images: torch.Tensor, cameras: object = None, captions: object = None) -> object:
        """What was encoded before."""
        return self.encoded
