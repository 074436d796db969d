"""float32 on a GPU is float32: no TF32 in convolutions or products, whatever was computed before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.gpu.agreement import error_of
from tests.gpu.subjects import KNOWN_PRECISIONS, TINY_SUBJECTS, USUAL, Subject
from tests.support.tiny import random_images

pytestmark = pytest.mark.gpu

ROUNDING = 5e-5  # of float32 through a whole model; TF32 keeps 10 bits, which is 5e-4 already for one product


def features_error(subject: Subject, checkpoint: Path, gpu: torch.device) -> float:
    """The largest difference of the features from float64's on the CPU, after a pass in another precision."""
    exact = subject.load(checkpoint, torch.device("cpu"), "fp32").double()
    images = random_images(exact.config, 3)
    for precision in reversed(KNOWN_PRECISIONS):  # fp32 is the last
        model = subject.load(checkpoint, gpu, precision)
        features = model(images).float()
    return error_of(features.cpu(), exact(images))


@pytest.mark.parametrize("name", ["PromptSG", "TransReID", "OSNet"])
def test_features_are_those_of_float32(name: str, gpu: torch.device, tmp_path: Path) -> None:
    subject = TINY_SUBJECTS[name]
    assert features_error(subject, subject.save(tmp_path), gpu) <= ROUNDING


def test_features_of_the_usual_size_are_those_of_float32(gpu: torch.device, usual_checkpoint: Path) -> None:
    assert features_error(USUAL, usual_checkpoint, gpu) <= ROUNDING
