"""A batch that is too large for the GPU's memory is halved, and the job goes on, with the results of small batches."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cam.extract import extract_maps
from jobs.runs.run import open_run
from promptsg_core import load_model
from tests.gpu.mined import MAPS, SIZE, Inputs
from tests.support.tiny import random_images

pytestmark = pytest.mark.gpu

BATCH, TOLERANCE = 512, 1e-4


@contextlib.contextmanager
def limited_memory(device: torch.device, size: int) -> Iterator[None]:
    """torch may take at most `size` bytes of the device's memory; what it has taken and does not need is given back."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(size / whole, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()


def peak_of(inputs: Inputs, gpu: torch.device) -> int:
    """The bytes at the peak of a pass over a whole batch."""
    model = load_model(inputs.checkpoint, device=str(gpu), precision="fp32", image_size=SIZE)
    images = random_images(model.config, BATCH)
    torch.cuda.reset_peak_memory_stats(gpu)
    extract_maps(model, images, MAPS)
    return torch.cuda.max_memory_allocated(gpu)


def test_a_batch_that_does_not_fit_is_halved(
    gpu: torch.device, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = Inputs(folder=tmp_path / "in", shards=2, images_each=600).write()
    assert inputs.mine(tmp_path / "SMALL", gpu, batch_size=50).exit_status == 0
    with limited_memory(gpu, int(0.6 * peak_of(inputs, gpu))), caplog.at_level(logging.WARNING):
        summary = inputs.mine(tmp_path / "RUN", gpu, batch_size=BATCH)
    assert (summary.exit_status, summary.images) == (0, 1200)
    assert "does not suffice for 512 images at a time: going on with 256" in caplog.text
    small, halved = open_run(tmp_path / "SMALL"), open_run(tmp_path / "RUN")
    for shard in sorted(small.layout.done()):
        assert small.read_keys(shard) == halved.read_keys(shard)
        for name in MAPS:
            wanted = small.read_maps(name, shard)
            np.testing.assert_allclose(halved.read_maps(name, shard), wanted, rtol=0, atol=TOLERANCE * wanted.max())
