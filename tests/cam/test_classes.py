"""The one-image API: the same maps as the engine, and nothing left on the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cam import (
    CamError,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    MIMAttentionCAM,
    extract_maps,
    layer_names,
    map_names,
    visualize_gradcam,
)
from promptsg_core.families.promptsg.model import PromptSG
from tests.promptsg_core.test_model import build
from tests.support.tiny import random_images, tiny_state


@pytest.fixture(scope="module")
def model() -> PromptSG:
    config, state = tiny_state()
    return build(config, state)


def test_each_class_gives_the_engines_maps(model: PromptSG) -> None:
    images = random_images(model.config, 3)
    wanted = extract_maps(model, images, ["gradcam/mim", "gradcam++/vit_proj", "hirescam/mim", "mim_attention"]).maps
    for cam, name in (
        (GradCAM(model, ["mim"]), "gradcam/mim"),
        (GradCAMPlusPlus(model, "vit_proj"), "gradcam++/vit_proj"),
        (HiResCAM(model), "hirescam/mim"),
        (MIMAttentionCAM(model), "mim_attention"),
    ):
        with cam:
            np.testing.assert_array_equal(cam(images), wanted[name].float().numpy())
            alone = cam(images[1])
            np.testing.assert_allclose(alone, wanted[name][1].numpy(), rtol=1e-5, atol=1e-9)
        cam.remove_hooks()


def test_categories(model: PromptSG) -> None:
    images = random_images(model.config, 3)
    cam = GradCAM(model, "mim")
    predicted = extract_maps(model, images, ["gradcam/mim"]).predicted
    np.testing.assert_array_equal(cam(images, predicted), cam(images))
    classes = [(int(predicted[0]) + 1) % 7, 4, 2]
    many = cam(images, classes)
    for row, label in enumerate(classes):
        np.testing.assert_allclose(many[row], cam(images, label)[row], rtol=1e-5, atol=1e-9)
    assert not np.allclose(many[0], cam(images)[0])
    with pytest.raises(CamError, match="the head has 7"):
        cam(images, 7)
    with pytest.raises(CamError, match="2 classes were given for 3 images"):
        cam(images, [1, 2])
    for one in (np.int64(4), torch.tensor(4)):  # as argmax gives it
        np.testing.assert_array_equal(cam(images, one), cam(images, 4))


def test_the_callers_grad_mode_does_not_matter(model: PromptSG) -> None:
    images = random_images(model.config, 2)
    wanted = GradCAM(model, "mim")(images)
    with torch.no_grad():
        np.testing.assert_array_equal(GradCAM(model, "mim")(images), wanted)
    with torch.inference_mode():
        np.testing.assert_array_equal(GradCAM(model, "mim")(images), wanted)


def test_layers_may_be_the_modules_that_older_code_named(model: PromptSG) -> None:
    blocks = model.image_encoder.transformer.resblocks
    assert layer_names(model, [model.mim.cross_attn, blocks[-1]]) == ["mim", "vit_last"]
    assert layer_names(model, model.image_encoder.ln_post) == ["vit_proj"]
    assert layer_names(model, "all") == ["mim", "vit_last", "vit_proj", "bottleneck", "classifier"]
    both = GradCAM(model, [model.mim.post_blocks[-1].norm1, model.classifier_proj])(random_images(model.config, 2))
    assert isinstance(both, dict) and list(both) == ["mim", "classifier"]
    with pytest.raises(CamError, match=r"no map lies on ClipBlock \(image_encoder.transformer.resblocks.0\)"):
        GradCAM(model, [blocks[0]])
    with pytest.raises(CamError, match=r"unknown layer 'mims'; did you mean mim\? The layers are mim, vit_last"):
        GradCAM(model, "mims")


def test_all_leaves_out_what_cannot_be_had(model: PromptSG) -> None:
    names = map_names(model, "all", "all")
    assert "hirescam/vit_last" not in names and "gradcam/classifier" in names and "chefer" in names
    assert "gradcam/classifier" not in map_names(model, "gradcam", "all", "similarity")
    assert map_names(model, "hirescam", ["vit_last"]) == ["hirescam/vit_last"]  # requested by name: refused later


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_on_the_model(fails: bool) -> None:
    config, state = tiny_state()
    model = PromptSG(config)
    kept = {key: value for key, value in state.items() if key in model.state_dict()}
    model.load_state_dict(kept)
    model.train()
    model.mim.eval()
    model.image_encoder.requires_grad_(False)
    before = {name: (module.training, len(module._forward_hooks)) for name, module in model.named_modules()}
    grads = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    images = random_images(config, 2)
    if fails:
        with pytest.raises(ValueError, match="images are"):
            GradCAM(model, "all")(images[:, :, :8])
    else:
        found = GradCAM(model, "mim")(images)
        np.testing.assert_allclose(found, GradCAM(build(config, state), "mim")(images), rtol=1e-4, atol=1e-7)
    assert before == {name: (module.training, len(module._forward_hooks)) for name, module in model.named_modules()}
    assert grads == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._backward_hooks for module in model.modules())


@pytest.mark.parametrize("method", ["gradcam", "mim_attention", "rollout", "all"])
def test_visualize_gradcam_draws_and_saves(model: PromptSG, tmp_path: Path, method: str) -> None:
    images = random_images(model.config, 2)
    normal = images.float() / 255 * 2 - 1  # the model's mean and std are 0.5
    picture = visualize_gradcam(model, normal, [model.mim.cross_attn], method=method, save_path=tmp_path / "a.png")
    saved = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(saved, picture)
    original = np.asarray(Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((128, 256), 3))
    assert np.abs(saved[:256, :128].astype(int) - original).max() <= 1  # RGB, right way up, at the top left


def test_show_opens_a_figure(model: PromptSG, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    visualize_gradcam(model, random_images(model.config, 1), method="gradcam++", show=True)
    assert len(shown) == 1
    plt.close("all")


def test_an_unknown_method_is_named(model: PromptSG) -> None:
    methods = "methods are gradcam, gradcam\\+\\+, hirescam, mim_attention, rollout, chefer, legrad and all"
    with pytest.raises(CamError, match=methods):
        visualize_gradcam(model, torch.zeros(1, 3, 32, 16, dtype=torch.uint8), method="scorecam")
    with pytest.raises(CamError, match="did you mean rollout"):
        map_names(model, "roll-out", "mim")


def test_all_methods_may_be_drawn_for_given_classes(model: PromptSG) -> None:
    images = random_images(model.config, 2)
    pictures = [visualize_gradcam(model, images, "all", method="all", target_category=c) for c in ([3, 3], 3)]
    np.testing.assert_array_equal(*pictures)
