"""The speed of the model: as a whole, of its parts, and at several batch sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from jobs.benchmark.report import TriedBatch
from jobs.benchmark.samples import made_caption, repeated
from jobs.benchmark.timing import available_memory, median_seconds, peak_memory
from jobs.errors import UserError
from jobs.memory import free_what_failed, is_out_of_memory
from jobs.mining.config import MineConfig
from jobs.progress import told
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import Sample
from jobs.shards.urls import Shard

if TYPE_CHECKING:
    import torch

    from jobs.mining.model import LoadedModel
    from jobs.runs.metadata_rows import Results
    from promptsg_core.cameras import Cameras
    from promptsg_core.model import AnyModel
    from promptsg_core.prompts import Captions

LARGEST_BATCH = 256  # on a CPU, where larger ones gain nothing
LARGEST_BATCH_ON_GPU = 1024
_GAIN = 1.03  # a smaller gain over the best smaller batch is noise
_NO_GAINS = 2  # so many sizes in a row without a gain end the search
SHARD = Shard(name="sample", url="", size=None)  # the temporary shard


@dataclass(frozen=True, kw_only=True)
class PartRates:
    """Images per second of the model's parts, each alone; `text_tower` is None for a model that reads no texts."""

    image_tower: float
    text_tower: float | None
    head_and_maps: float


@contextlib.contextmanager
def model_alone(loaded: LoadedModel, images: torch.Tensor, config: MineConfig) -> Iterator[Callable[[], Results]]:
    """The model alone, as a worker runs it: each call brings uint8 (B, 3, H, W) from the host to results on the host.

    The pass is the worker's, for batches of B images, and so are the copies and what is measured of the maps on a GPU.
    The first call makes what is kept, such as a CUDA graph. Each call waits for its results, while a worker launches
    the next batch before.
    """
    from jobs.mining.batch import MiningSetup, launch_batch
    from jobs.mining.devices.choose import device_of
    from jobs.mining.devices.device_measures import DeviceMeasures
    from jobs.mining.passes.choice import choose_pass
    from jobs.shards.reader import Batch

    model, config = loaded.model, config.model_copy(update={"batch_size": len(images)})
    with contextlib.closing(device_of(model.device)) as device:
        device.pin(images)
        setup = MiningSetup(
            model=model,
            run=choose_pass(model, config),
            config=config,
            targets=loaded.targets,
            cameras=loaded.cameras,
            device=device,
            measures=DeviceMeasures(model.grid, device=model.device) if model.device.type == "cuda" else None,
            measured=config.maps,
        )

        def run() -> Results:
            return launch_batch(Batch(SHARD, _samples(loaded, len(images), config), images), setup).results()

        yield run


def run_model(loaded: LoadedModel, images: torch.Tensor, config: MineConfig) -> Results:
    """uint8 (B, 3, H, W) on the host -> results on the host: the first call of `model_alone`."""
    with model_alone(loaded, images, config) as run:
        return run()


def _samples(loaded: LoadedModel, count: int, config: MineConfig) -> SampleColumns:
    """Samples of no data set, with captions where the request reads them."""
    captions = loaded.model.reads_captions(config.target, config.maps)
    return SampleColumns.of(
        Sample(key=str(n), tar_index=n, caption=made_caption(n) if captions else None) for n in range(count)
    )


@told("measuring the model")
def rate_of_model(loaded: LoadedModel, images: torch.Tensor, config: MineConfig, seconds: float) -> float:
    """Images per second of `model_alone` on uint8 (B, 3, H, W), once it is warm, measured for about `seconds`."""
    with model_alone(loaded, images, config) as run:
        run()
        return len(images) / median_seconds(run, loaded.device, seconds)


@told("measuring the parts of the model")
def rates_of_parts(loaded: LoadedModel, images: torch.Tensor, config: MineConfig, seconds: float) -> PartRates:
    """Images per second of the model's parts on uint8 (B, 3, H, W), each measured for about `seconds`."""
    from cam.extract import extract_maps

    samples = _samples(loaded, len(images), config)
    cameras: Cameras | None = "mean" if loaded.model.camera_rows else None
    captions = samples.caption if samples.caption[0] is not None else None
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


@dataclass(frozen=True, kw_only=True)
class BatchSweep:
    """The batch sizes that were tried. `stopped` says why no larger one was, where the memory was the reason."""

    tried: tuple[TriedBatch, ...]
    stopped: str | None = None


@told("trying batch sizes")
def try_batch_sizes(loaded: LoadedModel, pixels: torch.Tensor, config: MineConfig, seconds: float) -> BatchSweep:
    """The speed at 1, 2, 4, ... images, as long as the memory suffices: up to 256, until two sizes in a row gain
    nothing; on a GPU up to 1024, gain or not.

    Raises UserError if the memory does not suffice for one image.
    """
    on_gpu = loaded.device.type == "cuda"
    tried: list[TriedBatch] = []
    size, best, without_gain = 1, 0.0, 0
    while size <= (LARGEST_BATCH_ON_GPU if on_gpu else LARGEST_BATCH) and (on_gpu or without_gain < _NO_GAINS):
        measured = _try_batch_size(loaded, repeated(pixels, size), config, seconds) if _fits(tried, on_gpu) else None
        if measured is None:
            break
        tried.append(measured)
        without_gain = 0 if measured.images_per_second > _GAIN * best else without_gain + 1
        best = max(best, measured.images_per_second)
        size *= 2
    else:
        return BatchSweep(tried=tuple(tried))
    if not tried:
        raise UserError(f"{loaded.device} has not the memory for one image: try --precision bf16 or another device")
    return BatchSweep(
        tried=tuple(tried),
        stopped=f"the memory of {loaded.device} does not suffice for batches of {size}: no larger ones were tried",
    )


def _try_batch_size(loaded: LoadedModel, images: torch.Tensor, config: MineConfig, seconds: float) -> TriedBatch | None:
    """The speed and the memory of one batch size; None where the memory does not suffice."""
    try:
        use = peak_memory(partial(run_model, loaded, images, config), loaded.device)  # also warms up
        rate = rate_of_model(loaded, images, config, seconds / 2)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    else:
        return TriedBatch(batch_size=len(images), images_per_second=rate, peak_bytes=None if use is None else use.peak)
    free_what_failed()  # only here: the error is gone
    return None


def _fits(tried: Sequence[TriedBatch], on_gpu: bool) -> bool:
    """Whether twice the last batch surely fits into the host's memory. A GPU raises an error by itself."""
    available = available_memory()
    if on_gpu or not tried or tried[-1].peak_bytes is None or available is None:
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
