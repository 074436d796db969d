"""No image gets another's results: many batches through reused buffers, while other copies keep the GPU busy."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cam.extract import extract_maps
from jobs.runs.run import open_run
from promptsg_core import load_model
from promptsg_core.preprocess import resize_image
from tests.gpu.mined import MAPS, SIZE, Inputs

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-4  # of the largest value; a batch of another size may take other kernels


@contextlib.contextmanager
def slow_copies(device: torch.device) -> Iterator[None]:
    """Large copies to and from the device, on streams of their own, one after the other all the time."""
    if device.type != "cuda":
        yield
        return
    over = threading.Event()

    def copy() -> None:
        host = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True)
        there, back = torch.empty_like(host, device=device), torch.empty_like(host, pin_memory=True)
        up, down = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
        while not over.is_set():
            with torch.cuda.stream(up):
                there.copy_(host, non_blocking=True)
            with torch.cuda.stream(down):
                back.copy_(there, non_blocking=True)
            up.synchronize()
            down.synchronize()

    thread = threading.Thread(target=copy, daemon=True, name="slow copies")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def pixels_of(folder: Path) -> dict[str, Tensor]:
    """key -> uint8 (3, H, W) of every image of the shards, read by Pillow."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    assert file is not None
                    picture = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
                    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)
                    found[member.name.removesuffix(".jpg")] = resize_image(image, SIZE)
    return found


@pytest.mark.parametrize("batch_size", [16, 7])
def test_each_row_has_its_own_images_results(device: torch.device, batch_size: int, tmp_path: Path) -> None:
    inputs = Inputs(
        folder=tmp_path / "in",
        shards=6 if device.type == "cuda" else 2,
        images_each=101 if device.type == "cuda" else 25,
    ).write()
    run = tmp_path / "RUN"
    with slow_copies(device):
        assert inputs.mine(run, device, batch_size=batch_size).exit_status == 0
    model = load_model(inputs.checkpoint, device=str(device), precision="fp32", image_size=SIZE)
    opened, images = open_run(run), pixels_of(inputs.folder)
    assert len(images) == inputs.shards * inputs.images_each
    for shard in sorted(opened.layout.done()):
        keys, features = opened.read_keys(shard), opened.read_features(shard)
        maps = {name: opened.read_maps(name, shard) for name in MAPS}
        for row in range(0, len(keys), 1 if device.type == "cuda" else 12):
            own = extract_maps(model, images.pop(keys[row]).unsqueeze(0), MAPS)
            assert_close(features[row], own.features[0], f"{shard} {keys[row]} features")
            for name in MAPS:
                assert_close(maps[name][row], own.maps[name][0], f"{shard} {keys[row]} {name}")
        # The images are distinct enough for a wrong row to show.
        assert np.abs(features[1:] - features[:-1]).max(axis=1).min() > 10 * TOLERANCE * np.abs(features).max()


def assert_close(found: np.ndarray, own: Tensor, where: str) -> None:
    wanted = own.cpu().numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * max(1e-6, np.abs(wanted).max()), err_msg=where)
