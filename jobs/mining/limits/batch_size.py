"""How many images a GPU takes at once where nobody has said: 256, or what its memory holds of this model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from jobs.memory import is_out_of_memory
from jobs.mining.batch import mine_batch
from jobs.mining.camera_rows.source import CameraSource
from jobs.mining.config import MineConfig
from jobs.mining.targets import TargetSource
from jobs.phrases import counted, one_line
from jobs.progress import told
from jobs.shards.columns import SampleColumns
from jobs.shards.reader import Batch
from jobs.shards.samples import Sample
from jobs.shards.urls import Shard
from promptsg_core.model import AnyModel

logger = logging.getLogger(__name__)

# A ViT-B/16 makes 33,000 rows of it for each of its products. `promptsg bench` measures larger ones.
GPU_BATCH = 256
_TRIALS = (8, 16)  # images; an image takes the difference of both passes, without what any pass takes
# Of the free memory. What is measured is a plain pass, and a CUDA graph comes on top: it keeps what a pass needs for
# itself alone, while the plain passes before it (one for each kind of batch, and three on a stream of their own) need
# as much again. The batch behind is held too, and memory in pieces is not all of use.
_SHARE = 0.4


class Room(Protocol):
    """The memory of a device."""

    def free(self) -> int:
        """The bytes that this process may still allocate."""

    def peak_of(self, call: Callable[[], object]) -> int:
        """The most bytes that a call had allocated at a time, beside those that were allocated before."""


@told("trying how many images the memory holds")
def with_batch_size(
    config: MineConfig, model: AnyModel, targets: TargetSource, cameras: CameraSource, room: Room | None = None
) -> MineConfig:
    """The configuration with a batch size, if it has none: on a GPU what its memory holds, measured by two passes.

    `room` is by default that of the model's GPU; on a CPU nothing is measured. A batch that turns out not to fit is
    halved later, so that the estimate need not be exact.
    """
    if room is None and model.device.type == "cuda":
        room = _CudaRoom(model.device)
    if config.batch_size is not None or room is None:
        return config.model_copy(update={"batch_size": config.images_at_once})
    return config.model_copy(update={"batch_size": _measured(_Trial(model, config, targets, cameras), room)})


def fitting_size(free: int, of_image: int) -> int:
    """The largest power of two, up to 256, of whose images so many bytes hold all."""
    size = GPU_BATCH
    while size > 1 and size * of_image > _SHARE * free:
        size //= 2
    return size


@dataclass(frozen=True)
class _Trial:
    """Passes over black images, as a worker makes them."""

    model: AnyModel
    config: MineConfig
    targets: TargetSource
    cameras: CameraSource

    def of(self, count: int) -> None:
        """One pass over so many."""
        caption = "a person" if self.model.reads_captions(self.config.target, self.config.maps) else None
        samples = [Sample(key=str(n), tar_index=n, pid=0, camid=0, caption=caption) for n in range(count)]
        images = torch.zeros(count, 3, *self.model.config.image_size, dtype=torch.uint8)
        batch = Batch(Shard(name="trial", url="", size=None), SampleColumns.of(samples), images)
        mine_batch(self.model, batch, self.config, self.targets, self.cameras)


def _measured(trial: _Trial, room: Room) -> int:
    try:
        few, more = (room.peak_of(partial(trial.of, count)) for count in _TRIALS)
    except Exception as error:  # noqa: BLE001 - the first batch meets it again, and says whose it is
        size = _TRIALS[0] if is_out_of_memory(error) else GPU_BATCH
        of = counted(size, "image")
        logger.warning("batches of %s: what an image takes could not be measured (%s)", of, one_line(error))
        return size
    of_image, free = max(1, (more - few) // (_TRIALS[1] - _TRIALS[0])), room.free()
    size = fitting_size(free, of_image)
    logger.info(
        "batches of %s: each takes %.1f MB of the %.1f GB that are free on %s",
        counted(size, "image"), of_image / 1e6, free / 1e9, trial.model.device,
    )  # fmt: skip
    return size


class _CudaRoom:
    """The memory of a GPU. What torch keeps for itself, it gives to the next tensor."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0]) + kept

    def peak_of(self, call: Callable[[], object]) -> int:
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        call()
        return torch.cuda.max_memory_allocated(self._device) - before
