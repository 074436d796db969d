"""All maps of every family on a GPU equal those of the CPU: in float32 to rounding, in others by their correlation."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cam.extract import Extraction
from cam.targets import class_target, similarity_target
from tests.gpu.agreement import agreement_of, error_of, on_host
from tests.gpu.subjects import DEMO, KNOWN_PRECISIONS, TINY_SUBJECTS, USUAL, Subject
from tests.support.tiny import random_images

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
FLOAT32 = 1e-4  # the largest difference of a map, as a share of its largest value in the batch
# The least median correlation of a map with the CPU's in float32.
TINY_MEDIANS = {"tf32": 0.999, "fp16": 0.999, "bf16": 0.99}
USUAL_MEDIANS = {"tf32": 0.999, "fp16": 0.99, "bf16": 0.9}
NOT_FLOAT32 = tuple(name for name in KNOWN_PRECISIONS if name != "fp32")
ON_CPU = ("PromptSG", "TransReID, JPM, all heads, cameras")  # where these tests themselves are tried
SUBJECTS: Mapping[str, Subject] = {**TINY_SUBJECTS, "ViT-B/16": USUAL}


@dataclass(frozen=True)
class Case:
    """A model's checkpoint, images, and what the CPU makes of them in float32."""

    subject: Subject
    checkpoint: Path
    images: Tensor
    exact: Extraction

    def on(self, device: torch.device, precision: str) -> Extraction:
        """What a device makes of the images, brought to the host."""
        model = self.subject.load(self.checkpoint, device, precision)
        return on_host(self.subject.extract(model, self.images))


def made_case(subject: Subject, checkpoint: Path, count: int) -> Case:
    model = subject.load(checkpoint, CPU, "fp32")
    images = random_images(model.config, count)
    return Case(subject, checkpoint, images, subject.extract(model, images))


@pytest.fixture(scope="module", params=SUBJECTS)
def case(request: pytest.FixtureRequest, device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Case:
    subject = SUBJECTS[request.param]
    if device.type == "cpu" and request.param not in ON_CPU:
        pytest.skip("needs a CUDA device: the CPU stands in with two models, since all take minutes")
    if subject.captioned and importlib.util.find_spec("open_clip") is None:
        pytest.skip("captions need open_clip: pip install '.[prompts]'")
    if subject is USUAL:
        return made_case(subject, request.getfixturevalue("usual_checkpoint"), 4)
    return made_case(subject, subject.save(tmp_path_factory.mktemp("case")), 9 if device.type == "cuda" else 4)


def assert_equal(found: Extraction, exact: Extraction) -> None:
    """Equal but for the rounding of float32."""
    assert found.predicted.equal(exact.predicted)
    errors = {name: error_of(maps, exact.maps[name]) for name, maps in found.maps.items()}
    errors |= {"features": error_of(found.features, exact.features), "score": error_of(found.score, exact.score),
               "heads": error_of(found.attention_heads, exact.attention_heads)}  # fmt: skip
    assert found.maps.keys() == exact.maps.keys()
    assert {name: error for name, error in errors.items() if not error <= FLOAT32} == {}


def test_float32_equals_the_cpu(case: Case, device: torch.device) -> None:
    found = case.on(device, "fp32")
    assert all(maps.dtype == torch.float32 and maps.shape == case.exact.maps[n].shape for n, maps in found.maps.items())
    assert_equal(found, case.exact)


@pytest.mark.parametrize("precision", NOT_FLOAT32)
def test_other_precisions_correlate_with_the_cpu(case: Case, device: torch.device, precision: str) -> None:
    least = (USUAL_MEDIANS if case.subject is USUAL else TINY_MEDIANS)[precision]
    found = agreement_of(case.on(device, precision), case.exact)
    assert found.finite and found.same_class >= 0.75
    low = {name: one.median for name, one in found.maps.items() if not one.median >= least}
    assert low == {}


@pytest.mark.parametrize("precision", KNOWN_PRECISIONS)
def test_targets_whose_data_lie_on_the_host(device: torch.device, precision: str, tmp_path: Path) -> None:
    subject = TINY_SUBJECTS["PromptSG"]
    case = made_case(subject, subject.save(tmp_path), 6)
    exact_model = case.subject.load(case.checkpoint, CPU, "fp32")
    for target in ("feature", class_target(torch.arange(6) % 5), class_target(torch.tensor(3)),
                   similarity_target(case.exact.features.roll(1, 0))):  # fmt: skip
        maps = ("gradcam++/mim", "hirescam/vit_proj")
        exact = case.subject.extract(exact_model, case.images, maps, target)
        model = case.subject.load(case.checkpoint, device, precision)
        found = case.subject.extract(model, case.images, maps, target)
        for name in maps:
            if precision == "fp32":
                assert error_of(found.maps[name].cpu(), exact.maps[name]) <= FLOAT32
            else:
                r = torch.corrcoef(torch.stack([found.maps[name].cpu().flatten(), exact.maps[name].flatten()]))[0, 1]
                assert float(r) >= TINY_MEDIANS[precision], (name, target)


@pytest.mark.parametrize("cameras", ["mean", "none", 2])
def test_cameras_that_no_image_has_of_its_own(device: torch.device, cameras: str | int, tmp_path: Path) -> None:
    subject = TINY_SUBJECTS["CLIP-ReID, head cls, cameras"]
    checkpoint = subject.save(tmp_path)
    there, here = subject.load(checkpoint, device, "fp32"), subject.load(checkpoint, CPU, "fp32")
    images = random_images(here.config, 3)
    assert error_of(there(images, cameras).cpu(), here(images, cameras)) <= FLOAT32


def test_fp16_of_a_trained_model_is_close_to_float32(device: torch.device) -> None:
    """The precision that `auto` takes on a GPU."""
    subject = Subject(state=dict)
    exact_model = subject.load(DEMO, CPU, "fp32")
    images = random_images(exact_model.config, 24)
    exact = subject.extract(exact_model, images)
    found = agreement_of(on_host(subject.extract(subject.load(DEMO, device, "fp16"), images)), exact)
    assert {name: one.median for name, one in found.maps.items() if not one.median >= 0.99} == {}
