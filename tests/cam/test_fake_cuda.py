"""Every map of every family on a GPU that is not there: devices, types, copies and how much is launched.

Values, streams and memory are for the tests marked `gpu`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from cam.available import check_reachable
from cam.errors import CamError
from cam.extract import Extraction, extract_maps
from cam.methods import GRADCAM_PLUS_PLUS_FORMS
from cam.names import GRADIENT_METHODS, RELEVANCE_METHODS, MapName
from cam.targets import TARGET_OUTPUTS, Target, class_target, similarity_target
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.model import AnyModel
from promptsg_core.precision import PRECISIONS
from tests.support.fake_cuda import Traffic, fake_gpu, move_to_fake_gpu
from tests.support.small_models import CAPTIONS, KINDS, small_model

DEVICE = "cuda:1"  # what takes the first device for the only one does not pass
SEVEN = ("mim_attention", *(f"{method}/{layer}" for layer in ("mim", "vit_last", "vit_proj")
                            for method in ("gradcam", "gradcam++")))  # fmt: skip
CASES_OF_A_KIND = 2  # each kind takes others of the targets; a second kind of a family takes one
VARIANTS = ("promptsg simplified", "transreid", "osnet ain")
RELEVANCE_KINDS = ("irra", "transreid")  # with a text tower, and without
MOST_KERNELS = 450  # of a batch of ViT-B/16 with the seven maps
COUNT = len(CAPTIONS)


@dataclass(frozen=True)
class Case:
    """One way to explain a model, and every map that this way offers."""

    target: str
    head: str
    form: str
    precision: str
    maps: tuple[str, ...]


@dataclass(frozen=True)
class HostBatch:
    """What a job has on the host of a batch. The numbers are real: the host may read its own."""

    images: Tensor
    targets: Mapping[str, Target | str]
    cameras: Tensor | None
    captions: list[str | None] | None

    @classmethod
    def of(cls, model: AnyModel) -> HostBatch:
        references = torch.ones(COUNT, model.config.feature_dim)
        data = {"label": class_target(torch.arange(COUNT)), "similarity": similarity_target(references)}
        return cls(
            images=torch.zeros(COUNT, 3, *model.config.image_size, dtype=torch.uint8),
            targets={name: data.get(name, name) for name in TARGET_OUTPUTS},
            cameras=torch.arange(COUNT) if model.camera_rows else None,
            captions=list(CAPTIONS) if model.takes_captions else None,
        )

    def explain(self, model: AnyModel, case: Case) -> Extraction:
        """All maps of a case."""
        return extract_maps(model, self.images, case.maps, self.targets[case.target], case.form, head=case.head,
                            cameras=self.cameras, captions=self.captions)  # fmt: skip


def cases_of(kind: str, model: AnyModel) -> list[Case]:
    """Some targets, heads and forms of GradCAM++ in turns, in one precision: other kinds have the others.

    The relevance methods pass all blocks again, which takes long, so they stand with one case of two kinds.
    """
    number = KINDS.index(kind)
    precision = list(PRECISIONS)[number % len(PRECISIONS)]
    on_layers = [f"{method}/{layer}" for method in GRADIENT_METHODS for layer in model.layers]
    found: list[Case] = []
    for turn in range(2 * number, 2 * number + len(TARGET_OUTPUTS)):
        target, head, form = (
            list(table)[turn % len(table)] for table in (TARGET_OUTPUTS, model.heads, GRADCAM_PLUS_PLUS_FORMS)
        )
        names = [*on_layers, *model.native_maps, *(RELEVANCE_METHODS if kind in RELEVANCE_KINDS and not found else ())]
        maps = tuple(name for name in names if is_reachable(model, name, target, head))
        if maps and len(found) < (1 if kind in VARIANTS else CASES_OF_A_KIND):
            found.append(Case(target, head, form, precision, maps))
    return found


def is_reachable(model: AnyModel, name: str, target: str, head: str) -> bool:
    try:
        check_reachable(model, [MapName.parse(name)], target, head=head)
    except CamError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_every_map_is_computed_on_the_gpu_alone(kind: str) -> None:
    """In float32 at the end. What depends on the model alone is copied once; nothing waits in the middle of a pass.

    No gradient goes through a fused attention, whose way back adds up in another order each time.
    """
    model = small_model(kind)
    cases = cases_of(kind, model)
    model.convert(PRECISIONS[cases[0].precision])
    batch = HostBatch.of(model)
    with fake_gpu():
        move_to_fake_gpu(model, DEVICE)
        batch.explain(model, replace(cases[0], maps=tuple(model.native_maps)))
        for case in cases:
            with Traffic() as traffic:
                found = batch.explain(model, case)
            assert_results(model, found)
            assert_traffic(model, case, traffic)


def assert_traffic(model: AnyModel, case: Case, traffic: Traffic) -> None:
    assert not traffic.down, case
    assert len(traffic.up) <= 1 + copies_beside_images(model, case), (case, traffic.up)
    assert not [name for name in traffic.launched if "attention" in name and "backward" in name], case


def assert_results(model: AnyModel, found: Extraction) -> None:
    tensors = {**found.maps, "score": found.score, "probability": found.probability,
               "features": found.features, "heads": found.attention_heads}  # fmt: skip
    where = {name: (str(tensor.device), tensor.dtype) for name, tensor in tensors.items()}
    assert where == dict.fromkeys(tensors, (DEVICE, torch.float32))
    assert (str(found.predicted.device), found.predicted.dtype) == (DEVICE, torch.int64)
    assert {tensor.shape for tensor in found.maps.values()} == {(COUNT, *model.grid)}


def copies_beside_images(model: AnyModel, case: Case) -> int:
    """Classes or references; cameras; the captions' tokens, which each relevance method reads again, and where in
    them each word stands.
    """
    data = case.target in ("label", "similarity")
    passes = 1 + sum(name in case.maps for name in RELEVANCE_METHODS)
    words = sum(name.endswith(":red") for name in case.maps)
    return passes * (data + bool(model.camera_rows) + model.takes_captions) + words + (passes - 1)


def test_all_families_targets_heads_and_methods_are_among_the_cases() -> None:
    cases = [case for kind in KINDS for case in cases_of(kind, small_model(kind))]
    assert {case.target for case in cases} == set(TARGET_OUTPUTS)
    assert {case.precision for case in cases} == set(PRECISIONS)
    assert {case.form for case in cases} == set(GRADCAM_PLUS_PLUS_FORMS)
    assert {case.head for case in cases} == {"proj", "cls", "both", "global", "all", "classifier"}
    assert {MapName.parse(name).method for case in cases for name in case.maps} == {
        *GRADIENT_METHODS, *RELEVANCE_METHODS, "mim_attention", "cls_attention", "local_attention", "patch_text",
        "cross_attention", "activation",
    }  # fmt: skip


# tf32 and bf16 launch what these do.
@pytest.mark.parametrize(("precision", "target"), [("fp32", "predicted"), ("fp16", "label")])
def test_the_seven_maps_of_a_full_model_need_few_launches(precision: str, target: str) -> None:
    """A batch of ViT-B/16. The images, the labels and the results are all that need cross over."""
    with torch.device("meta"):
        model = PromptSG(ModelConfig()).convert(PRECISIONS[precision]).requires_grad_(False).eval()
    images = torch.zeros(64, 3, 256, 128, dtype=torch.uint8)
    labels = class_target(torch.zeros(64, dtype=torch.long))
    with fake_gpu():
        move_to_fake_gpu(model)
        extract_maps(model, images, SEVEN[:1])  # what does not depend on the batch is kept from now on
        with Traffic() as traffic:
            extract_maps(model, images, SEVEN, labels if target == "label" else target)
        assert traffic.kernels <= MOST_KERNELS, traffic.launched
        assert [copy.shape for copy in traffic.up][:1] == [(64, 3, 256, 128)]
        assert len(traffic.up) <= 2 and not traffic.down
