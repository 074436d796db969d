"""The examples in the docstrings of the Python API run as they are written."""

from __future__ import annotations

import doctest
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import cam
import promptsg_core
from tests.support.tiny import random_images, tiny_checkpoint

EXAMPLES: list[Callable[..., object]] = [
    cam.extract_maps,
    cam.GradCAM,
    cam.GradCAMPlusPlus,
    cam.HiResCAM,
    cam.MIMAttentionCAM,
    cam.visualize_gradcam,
    promptsg_core.load_model,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny ViT-B-16_60.pth."""
    path = tmp_path_factory.mktemp("examples")
    tiny_checkpoint(path / "ViT-B-16_60.pth", image_size=(64, 32))
    return path


@pytest.mark.parametrize("documented", EXAMPLES, ids=lambda documented: documented.__name__)
def test_the_example_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documented: Callable[..., object]
) -> None:
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")  # where the examples' files are, and what they write goes
    model = promptsg_core.load_model("ViT-B-16_60.pth", device="cpu", precision="fp32")
    names = {"model": model, "images": random_images(model.config, 2)}
    found = [test for test in doctest.DocTestFinder(recurse=False).find(documented, globs=names) if test.examples]
    assert len(found) == 1
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    result = runner.run(found[0], out=said.append)
    assert result.attempted >= 2 and not result.failed, "".join(said)
