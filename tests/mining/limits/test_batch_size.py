"""The batch size where nobody has said: 64 on a CPU, on a GPU what its memory holds of this model and these maps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jobs.mining import fitting
from jobs.mining.config import MineConfig, build_config
from jobs.mining.limits import batch_size as module
from jobs.mining.limits.batch_size import fitting_size, with_batch_size
from jobs.mining.mine import mine
from jobs.mining.model import LoadedModel, load
from jobs.mining.request import request_of
from jobs.shards.reader import Batch
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint

GIB = 1 << 30


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MineConfig:
    folder = tmp_path_factory.mktemp("batch_size")
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32))
    return MineConfig(shards=("s.tar",), checkpoint=folder / "m.pth", output=folder / "RUN", device="cpu",
                      maps=("mim_attention", "gradcam/mim"), precision="fp32")  # fmt: skip


@pytest.fixture(scope="module")
def loaded(config: MineConfig) -> LoadedModel:
    return load(config, (), ())


class MadeUpRoom:
    """A GPU's memory: `fixed` bytes for any pass, and `of_image` for each image that the model really sees."""

    def __init__(self, loaded: LoadedModel, free: int, of_image: int, fixed: int = 5_000_000) -> None:
        self.loaded, self._free, self.of_image, self.fixed = loaded, free, of_image, fixed
        self.seen: list[int] = []

    def free(self) -> int:
        return self._free

    def peak_of(self, call: Callable[[], object]) -> int:
        module_of = self.loaded.model.image_encoder.conv1  # type: ignore[attr-defined]
        handle = module_of.register_forward_hook(lambda _, images, __: self.seen.append(len(images[0])))
        try:
            call()
        finally:
            handle.remove()
        return self.fixed + self.of_image * self.seen[-1]


def chosen(config: MineConfig, loaded: LoadedModel, room: MadeUpRoom | None) -> int | None:
    return with_batch_size(config, loaded.model, loaded.targets, loaded.cameras, room).batch_size


@pytest.mark.parametrize(
    ("free", "of_image", "size"),
    [
        (80 * GIB, 12_000_000, 256),
        (80 * GIB, 1, 256),
        (10 * GIB, 60_000_000, 64),  # 0.4 of it holds 71
        (10 * GIB, 40_000_000, 64),  # a plain pass of 128 takes half of it, and a graph would take the other half
        (GIB, 1 << 30, 1),
        (0, 1, 1),
    ],
)
def test_the_largest_power_of_two_that_fits(free: int, of_image: int, size: int) -> None:
    assert fitting_size(free, of_image) == size


def test_what_an_image_takes_is_the_difference_of_two_passes(config: MineConfig, loaded: LoadedModel) -> None:
    room = MadeUpRoom(loaded, 10 * GIB, 60_000_000, fixed=3 * GIB)
    assert chosen(config, loaded, room) == 64 and room.seen == [8, 16]
    assert chosen(config, loaded, MadeUpRoom(loaded, 80 * GIB, 12_000_000)) == 256


def test_a_stated_size_and_a_cpu_are_not_measured(config: MineConfig, loaded: LoadedModel) -> None:
    room = MadeUpRoom(loaded, GIB, GIB)
    assert chosen(config.model_copy(update={"batch_size": 300}), loaded, room) == 300 and not room.seen
    assert chosen(config, loaded, None) == 64 == config.images_at_once


@pytest.mark.parametrize(
    ("error", "size"), [(torch.OutOfMemoryError("CUDA out of memory."), 8), (RuntimeError("another"), 256)]
)
def test_a_pass_that_fails_does_not_end_the_run_here(
    config: MineConfig,
    loaded: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    size: int,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "mine_batch", fail)
    assert chosen(config, loaded, MadeUpRoom(loaded, 80 * GIB, 1)) == size
    assert f"batches of {size} images: what an image takes could not be measured ({error})" in caplog.text


def test_the_size_is_no_part_of_a_request(config: MineConfig) -> None:
    """A run goes on with any, and the run.json of earlier versions, whose default was 64, with this one."""
    requests = {
        request_of(config.model_copy(update={"batch_size": size}), ()).asked.model_dump_json() for size in (None, 1, 64)
    }
    assert len(requests) == 1 and "batch_size" not in requests.pop()
    assert MineConfig.model_validate({**config.model_dump(), "batch_size": None}) == config


def test_a_shard_s_rows_do_not_depend_on_what_fitted(
    config: MineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The default batch holds all eleven images; then only three fit, as on a GPU that another program fills."""
    market_shard(tmp_path / "s.tar", 11)
    values = {**config.model_dump(), "shards": str(tmp_path / "*.tar"), "workers": 0}
    assert mine(build_config(None, {**values, "output": tmp_path / "whole"})).images == 11
    launch = fitting.launch_batch

    def with_little_memory(batch: Batch, *rest: object) -> object:
        if len(batch.images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return launch(batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fitting, "launch_batch", with_little_memory)
    with caplog.at_level(logging.WARNING):
        assert mine(build_config(None, {**values, "output": tmp_path / "parts"})).images == 11
    said = [record.getMessage() for record in caplog.records if record.name == fitting.logger.name]
    assert [text.partition(": ")[2].partition(" (")[0] for text in said] == ["going on with 5", "going on with 2"]
    whole, parts = (pq.read_table(tmp_path / run / "metadata" / "s.parquet").to_pylist() for run in ("whole", "parts"))
    for there, here in zip(whole, parts, strict=True):
        for name, value in there.items():  # texts, classes and places are equal
            assert here[name] == (pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value)
    with h5py.File(tmp_path / "whole/maps/s.h5") as there_file, h5py.File(tmp_path / "parts/maps/s.h5") as here_file:
        for name in config.maps:
            wanted = there_file[f"maps/{name}"][:]
            np.testing.assert_allclose(here_file[f"maps/{name}"][:], wanted, rtol=1e-4, atol=1e-5 * wanted.max())
