"""Memory that does not suffice: smaller parts with the same results, and one line where even one image is too much."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch

from cam.extract import Extraction
from jobs.errors import UserError
from jobs.memory import is_out_of_memory
from jobs.mining import fitting
from jobs.mining.batch import LaunchedBatch, MiningSetup, launch_batch, mine_batch
from jobs.mining.config import MineConfig
from jobs.mining.devices.host import HostDevice
from jobs.mining.fitting import FittingBatches
from jobs.mining.model import LoadedModel, load
from jobs.mining.passes.graphed import GraphedPass
from jobs.mining.passes.plain import Pass, plain_pass
from jobs.runs.maps_file import HEADS
from jobs.shards.columns import SampleColumns
from jobs.shards.reader import Batch
from jobs.shards.samples import Sample
from jobs.shards.urls import Shard
from tests.support.tiny import random_images, tiny_checkpoint

SHARD = Shard(name="s", url="s.tar", size=None)
PIDS = [1, 2, 3, 99, 5, 6, 7]  # 99 has no class


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MineConfig:
    folder = tmp_path_factory.mktemp("fitting")
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32))
    (folder / "labels.json").write_text('{"1": 0, "2": 1, "3": 2, "5": 3, "6": 4, "7": 5}')
    return MineConfig(
        shards=("s.tar",), checkpoint=folder / "m.pth", output=folder / "RUN", maps=("mim_attention", "gradcam/mim"),
        device="cpu", precision="fp32", batch_size=7, target="label", label_map=folder / "labels.json",
        attention_heads="all",
    )  # fmt: skip


@pytest.fixture(scope="module")
def loaded(config: MineConfig) -> LoadedModel:
    return load(config, (), ())


def a_batch(loaded: LoadedModel) -> Batch:
    """Seven good images, and a failed sample in between, which has none."""
    samples = [Sample(key=str(number), tar_index=number, pid=pid) for number, pid in enumerate(PIDS)]
    failed = Sample(key="failed", tar_index=7)
    failed.fail("image_corrupt", "made up")
    return Batch(
        SHARD, SampleColumns.of([*samples[:2], failed, *samples[2:]]), random_images(loaded.model.config, len(PIDS))
    )


def fitting_batches(config: MineConfig, loaded: LoadedModel, run: Pass | None = None) -> FittingBatches:
    setup = MiningSetup(
        model=loaded.model,
        run=run or plain_pass(loaded.model, config),
        config=config,
        targets=loaded.targets,
        cameras=loaded.cameras,
        device=HostDevice(),
    )
    return FittingBatches(setup)


def room_for(images: int, monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[int]:
    """Lets larger batches fail. Returns the sizes of all attempts."""
    tried: list[int] = []

    def launch(batch: Batch, setup: MiningSetup) -> LaunchedBatch:
        tried.append(len(batch.images))
        if len(batch.images) > images:
            raise error
        return launch_batch(batch, setup)

    monkeypatch.setattr(fitting, "launch_batch", launch)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_parts_give_what_the_whole_gives(
    config: MineConfig, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:  # fmt: skip
    whole = a_batch(loaded)
    wanted = mine_batch(loaded.model, whole, config, loaded.targets)
    tried = room_for(3, monkeypatch, error)
    batches = fitting_batches(config, loaded)
    for attempts in ([7, 3, 3, 1], [3, 3, 1]):  # what was learnt is kept
        cut = a_batch(loaded)
        with caplog.at_level(logging.WARNING):
            found = batches.mine(cut)
        assert tried == attempts
        tried.clear()
        assert [(s.status, s.error) for s in cut.samples] == [(s.status, s.error) for s in whole.samples]
        for name in config.maps:
            np.testing.assert_allclose(found.maps[name], wanted.maps[name], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.features, wanted.features, rtol=1e-4, atol=1e-5)
        assert found.predicted.tolist() == wanted.predicted.tolist()
        assert np.isnan(found.score[3]) and np.isfinite(np.delete(found.score, 3)).all()
        np.testing.assert_allclose(found.stored[HEADS], wanted.stored[HEADS], rtol=1e-4, atol=1e-5)
    assert [record.getMessage() for record in caplog.records] == [
        "the memory of cpu does not suffice for 7 images at a time: going on with 3 (--batch-size 3 from the start)"
    ]


class _Again:
    """A graph that does nothing: the numbers are those of the capture."""

    def replay(self) -> None:
        pass


@pytest.mark.parametrize("images", [7, 1])
def test_graphs_become_smaller_with_the_batches(config: MineConfig, loaded: LoadedModel, images: int) -> None:
    """The plain pass has room for all seven, and a graph, whose memory comes on top, only for three.

    A graph pads a single image, so that it does not say that there is no room for one.
    """
    captured: list[int] = []

    def capture(_: torch.device, work: Callable[[], Extraction]) -> tuple[_Again, Extraction]:
        found = work()
        captured.append(len(found.score))
        if len(found.score) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return _Again(), found

    graphed = GraphedPass(plain_pass(loaded.model, config), config.images_at_once, loaded.device, capture)
    batches = fitting_batches(config, loaded, graphed)
    for _ in range(2):
        samples = SampleColumns.of([Sample(key=str(n), tar_index=n, pid=1) for n in range(images)])
        found = batches.mine(Batch(SHARD, samples, random_images(loaded.model.config, images)))
        assert len(found.score) == images
    assert captured == [7, 3] and (batches.most, graphed.size) == (3, 3)


def test_one_image_that_does_not_fit_is_one_line(
    config: MineConfig, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = room_for(0, monkeypatch, MemoryError())
    with pytest.raises(UserError, match="the memory of cpu does not suffice for one image at a time"):
        fitting_batches(config, loaded).mine(a_batch(loaded))
    assert tried == [7, 3, 1]


def test_other_errors_are_not_taken_for_that(
    config: MineConfig, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = room_for(3, monkeypatch, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        fitting_batches(config, loaded).mine(a_batch(loaded))
    assert tried == [7]


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 58, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(ValueError("out of memory"))
