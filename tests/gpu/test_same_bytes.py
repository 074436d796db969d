"""On one device the same images in the same batch give the same bytes: twice, and in another process."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from tests.gpu.determinism import digest, digest_elsewhere
from tests.gpu.subjects import KNOWN_PRECISIONS, TINY_SUBJECTS, USUAL
from tests.support.tiny import random_images

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", TINY_SUBJECTS)
@pytest.mark.parametrize("precision", KNOWN_PRECISIONS)
def test_two_passes_give_the_same_bytes(device: torch.device, name: str, precision: str, tmp_path: Path) -> None:
    subject = TINY_SUBJECTS[name]
    if device.type == "cpu" and (name, precision) != ("PromptSG", "fp32"):
        pytest.skip("needs a CUDA device: the CPU stands in with one model")
    if subject.captioned and importlib.util.find_spec("open_clip") is None:
        pytest.skip("captions need open_clip: pip install '.[prompts]'")
    model = subject.load(subject.save(tmp_path), device, precision)
    images = random_images(model.config, 9)
    whole = digest(subject.extract(model, images))
    subject.extract(model, random_images(model.config, 4, seed=1))  # other work, of another shape, in between
    assert digest(subject.extract(model, images)) == whole
    assert digest(subject.extract(model, random_images(model.config, 9, seed=1))) != whole


@pytest.mark.parametrize("precision", KNOWN_PRECISIONS)
def test_two_passes_of_the_usual_size_give_the_same_bytes(
    gpu: torch.device, usual_checkpoint: Path, precision: str
) -> None:
    model = USUAL.load(usual_checkpoint, gpu, precision)
    images = random_images(model.config, 16)
    assert digest(USUAL.extract(model, images)) == digest(USUAL.extract(model, images))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_another_process_gives_the_same_bytes(device: torch.device, precision: str, tmp_path: Path) -> None:
    subject = TINY_SUBJECTS["PromptSG"]
    checkpoint = subject.save(tmp_path)
    model = subject.load(checkpoint, device, precision)
    here = digest(subject.extract(model, random_images(model.config, 5)))
    assert digest_elsewhere(subject, checkpoint, device, precision, model.config.image_size, 5) == here
