"""The one-pass engine against per-image loops over the papers' equations (reference_model.cam), in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cam import CamError, extract_maps
from cam.names import GRADIENT_METHODS
from tests.promptsg_core.test_model import build, reference_of
from tests.support import reference_model
from tests.support.tiny import random_images, tiny_state

LAYERS = ("mim", "vit_last", "vit_proj", "bottleneck", "classifier")
ALL = ["mim_attention", *(f"{m}/{layer}" for m in GRADIENT_METHODS for layer in LAYERS)]
ALL.remove("hirescam/vit_last")
FEATURE = [name for name in ALL if not name.endswith("classifier")]


@pytest.mark.parametrize("mode", ["composed", "simplified"])
@pytest.mark.parametrize(
    ("target", "neck_feat"), [("predicted", "before"), ("feature", "before"), ("feature", "after")]
)
def test_every_map_equals_the_papers_equations(mode: str, target: str, neck_feat: str) -> None:
    config, state = tiny_state(prompt_mode=mode, neck_feat=neck_feat)
    model = build(config, state)
    images = random_images(config, 3)
    names = ALL if target == "predicted" else FEATURE
    if neck_feat == "before" and target == "feature":
        names = [name for name in names if not name.endswith("bottleneck")]
    result = extract_maps(model, images, names, target)
    for row, image in enumerate(images):
        reference = reference_of(config, state, image)
        logits, features = reference.values["logits_proj"], reference.values[f"features_{neck_feat}"]
        score = logits.max() if target == "predicted" else features.sum()
        assert result.score[row].item() == pytest.approx(score.item(), rel=1e-6)
        assert result.predicted[row] == logits.argmax()
        assert result.probability[row].item() == pytest.approx(logits.softmax(0).max().item(), rel=1e-5)
        torch.testing.assert_close(result.features[row].double(), features.detach(), rtol=1e-5, atol=1e-5)
        for name in names:
            method, _, layer = name.partition("/")
            wanted = reference.values["mim_attention"].detach()
            if layer:
                wanted = reference_model.cam(reference, method, layer, score)
            found = result.maps[name][row]
            assert found.shape == config.grid
            torch.testing.assert_close(found.flatten(), wanted, rtol=1e-8, atol=1e-10, msg=name)


def test_maps_are_float32_on_a_float32_model_and_detached() -> None:
    config, state = tiny_state()
    result = extract_maps(build(config, state, torch.float32), random_images(config, 2), ALL)
    for tensor in (*result.maps.values(), result.score, result.features, result.probability):
        assert tensor.dtype == torch.float32 and not tensor.requires_grad
    assert list(result.maps) == ALL


@pytest.mark.parametrize("size", [1, 7])
def test_the_batch_size_does_not_change_a_map(size: int) -> None:
    config, state = tiny_state()
    model = build(config, state, torch.float32)
    images = random_images(config, 64)
    whole = extract_maps(model, images, ALL)
    parts = [extract_maps(model, part, ALL) for part in images.split(size)]
    for name in ALL:
        found, wanted = torch.cat([p.maps[name] for p in parts]), whole.maps[name]
        peak = wanted.amax((1, 2), keepdim=True).clamp(min=1e-12)
        assert ((found - wanted).abs() / peak).max() < 1e-5, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_maps_look_like_float32_ones(dtype: torch.dtype) -> None:
    config, state = tiny_state()
    images = random_images(config, 48)
    exact = extract_maps(build(config, state, torch.float32), images, ALL)
    rough = extract_maps(build(config, state, torch.float32).convert(dtype), images, ALL)
    same = (exact.predicted == rough.predicted).numpy()  # another class has another map
    assert same.mean() > 0.8
    for name in ALL:
        pairs = zip(exact.maps[name][same].flatten(1), rough.maps[name][same].flatten(1), strict=True)
        r = [np.corrcoef(a, b)[0, 1] for a, b in pairs if a.max() > 0 and b.max() > 0]
        assert np.median(r) >= (0.995 if name == "mim_attention" else 0.98), (name, np.median(r))


def test_nothing_stays_on_the_model() -> None:
    config, state = tiny_state()
    model = build(config, state, torch.float32).requires_grad_(True)
    extract_maps(model, random_images(config, 2), ALL)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_only_the_attention_map_runs_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    config, state = tiny_state()
    model = build(config, state, torch.float32)
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: pytest.fail("a backward pass for attention alone"))
    assert set(extract_maps(model, random_images(config, 2), ["mim_attention"]).maps) == {"mim_attention"}


@pytest.mark.parametrize(
    ("maps", "target", "message"),
    [
        (["gradcam/classifier"], "feature", "target feature does not pass through layer classifier; it reaches mim"),
        (["gradcam++/bottleneck"], "feature", "target feature does not pass through layer bottleneck"),
        (["hirescam/vit_last"], "predicted", "take hirescam/vit_proj"),
        (["gradcam/vit_lst"], "predicted", "did you mean gradcam/vit_last"),
        (["gradcam"], "predicted", "unknown map 'gradcam'"),
        (["mim_atention"], "predicted", r"unknown map 'mim_atention'; did you mean mim_attention\? .* and layer mim, "),
        (["mim_attention:bag"], "predicted", "the model was given no prompt called bag; it has none"),
        (
            ["cls_attention"],
            "predicted",
            "unknown map 'cls_attention'.* The maps of this model are mim_attention, rollout",
        ),
        (
            ["gradcam++/vit_norm"],
            "predicted",
            "unknown map .* and layer mim, vit_last, vit_proj, bottleneck, classifier",
        ),
        ([], "predicted", "no map was requested"),
        (["mim_attention"], "class", "unknown target 'class'; targets are predicted, label, feature, similarity"),
    ],
)
def test_what_cannot_be_had_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, maps: list[str], target: str, message: str
) -> None:
    config, state = tiny_state()
    model = build(config, state)

    monkeypatch.setattr(model, "encode", lambda images: pytest.fail("the model ran"))
    with pytest.raises(CamError, match=message):
        extract_maps(model, random_images(config, 1), maps, target)


def test_the_bottleneck_is_reached_by_a_feature_taken_after_it() -> None:
    config, state = tiny_state()
    model = build(config, state)
    model.config = replace(model.config, neck_feat="after")
    result = extract_maps(model, random_images(config, 2), ["hirescam/bottleneck"], "feature")
    assert result.maps["hirescam/bottleneck"].max() > 0


@pytest.mark.parametrize("target", ["predicted", "feature"])
def test_a_few_rows_at_a_time_give_the_maps_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    config, state = tiny_state()
    model, images = build(config, state), random_images(config, 5)
    names = [name for name in (ALL if target == "predicted" else FEATURE) if "bottleneck" not in name]
    whole = extract_maps(model, images, names, target)
    monkeypatch.setattr("cam.weighing._CACHED", 1)
    for name, maps in extract_maps(model, images, names, target).maps.items():
        assert torch.equal(maps, whole.maps[name]) or torch.allclose(maps, whole.maps[name], rtol=1e-12), name
