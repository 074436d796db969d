"""The copies of a whole batch on a GPU, from the reader's pixels to the packed results, and that nothing waits.

There is no GPU: tensors carry a device and no numbers, see tests/support/fake_cuda.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cam.targets import FEATURE, class_target, similarity_target
from jobs.mining.batch import MiningSetup, launch_batch
from jobs.mining.camera_rows.source import NO_CAMERAS, CameraSource, OwnCameras
from jobs.mining.config import MineConfig
from jobs.mining.devices.device_measures import DeviceMeasures
from jobs.mining.devices.streamed import StreamedDevice
from jobs.mining.passes.plain import plain_pass
from jobs.mining.targets import BatchTarget
from jobs.shards.columns import SampleColumns
from jobs.shards.reader import Batch
from jobs.shards.samples import Sample
from jobs.shards.urls import Shard
from promptsg_core.model import AnyModel
from tests.support.fake_cuda import Traffic, fake_gpu, move_to_fake_gpu
from tests.support.small_models import small_model

GPU, IMAGES = "cuda:0", 3
MOST_BESIDE_THE_PASS = 51  # kernels of a batch: the measures of all its maps, and packing


@dataclass(frozen=True)
class _Mark:
    def passed(self) -> bool:
        return False

    def wait(self) -> None:
        raise AssertionError("nothing waits while a batch is launched")


class FakeStreams:
    """Copies to and from a device that is not there."""

    def pin(self, memory: Tensor) -> None:
        pass

    def host_memory(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.int32)

    def up(self, sources: Sequence[Tensor]) -> tuple[list[Tensor], _Mark]:
        return [source.to(GPU, non_blocking=True) for source in sources], _Mark()

    def down(self, sources: Sequence[Tensor], target: Tensor) -> _Mark:
        target.copy_(torch.cat(list(sources)), non_blocking=True)
        return _Mark()

    def close(self) -> None:
        pass


class MadeTarget:
    """A target with data of its own for each image, some of which have none."""

    def __init__(self, name: str, model: AnyModel) -> None:
        made = {"label": class_target(torch.tensor([4, 0, 2])), "feature": FEATURE}
        made["similarity"] = similarity_target(torch.rand(IMAGES, model.config.feature_dim))
        self._target = BatchTarget(made[name], np.array([True, False, True]), "no_label", "made up")

    def of(self, samples: SampleColumns) -> BatchTarget:
        return self._target


def cameras_of(model: AnyModel) -> CameraSource:
    return OwnCameras(model.camera_rows) if model.camera_rows else NO_CAMERAS


@pytest.mark.parametrize(
    ("kind", "target", "constants"),
    [
        ("promptsg composed", "feature", 0),
        ("promptsg composed", "label", 1),
        ("promptsg simplified", "similarity", 1),
        ("transreid", "label", 1),  # and the rows of its cameras, in the same copy
        ("transreid", "similarity", 1),
        ("osnet", "label", 1),
    ],
)
def test_beside_the_images_at_most_one_copy_goes_up_and_one_comes_down(kind: str, target: str, constants: int) -> None:
    model = small_model(kind)
    height, width = model.config.image_size
    maps = tuple(model.config.default_maps)
    config = MineConfig(shards=("s.tar",), checkpoint=Path("m.pth"), output=Path("RUN"), maps=maps, target=target,
                        attention_heads="all" if kind.startswith("promptsg") else "mean")  # fmt: skip
    samples = SampleColumns.of(Sample(key=str(n), tar_index=n, camid=n) for n in range(IMAGES))
    made, cameras = MadeTarget(target, model), cameras_of(model)
    with fake_gpu():
        move_to_fake_gpu(model, GPU)
        setup = MiningSetup(model=model, run=plain_pass(model, config), config=config, targets=made, cameras=cameras,
                      device=StreamedDevice(FakeStreams()), measures=DeviceMeasures(model.grid, device=GPU),
                      measured=maps)  # fmt: skip
        batch = Batch(Shard(name="s", url="", size=None), samples,
                      torch.zeros(IMAGES, 3, height, width, dtype=torch.uint8))  # fmt: skip
        launch_batch(batch, setup)  # what is kept on the device is kept from now on
        with Traffic() as traffic:
            launch_batch(batch, setup)
        if not model.camera_rows:  # whose check reads the rows of a host
            with Traffic() as alone:
                setup.run(batch.images, made.of(samples).target)
            assert traffic.kernels - alone.kernels <= MOST_BESIDE_THE_PASS, traffic.launched - alone.launched
    images = (IMAGES, 3, height, width)
    assert [copy.shape for copy in traffic.up if copy.shape == images] == [images]
    assert len(traffic.up) == 1 + constants and len(traffic.down) == 1, traffic.copies
    assert traffic.launched["cat"] >= 1
