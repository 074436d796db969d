"""OSNet against a literal transcription of the papers, in float64; and trained weights, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cam import CamError, extract_maps, map_names, similarity_target
from cam.names import GRADIENT_METHODS
from promptsg_core import CheckpointError, ModelError, inspect_checkpoint, load_model
from promptsg_core.families.osnet import OSNet
from promptsg_core.preprocess import decode_image, resize_image
from tests.conftest import SHARED
from tests.support import reference_osnet
from tests.support.tiny_osnet import CLASSES, FEATURE, VARIANTS, tiny_osnet

SIZE = (64, 32)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = torch.randint(0, 256, (3, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
MAPS = ["activation", *(f"{method}/conv5" for method in GRADIENT_METHODS)]


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def loaded(path: Path, **given: object) -> OSNet:
    model = load_model(path, device="cpu", precision="fp32", image_size=SIZE, **given)  # type: ignore[arg-type]
    assert isinstance(model, OSNet)
    return model


def normalised(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    return (image.double() / 255 - mean) / std


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("target", ["predicted", "label", "feature", "similarity"])
def test_every_output_and_map_equals_the_literal_transcription(variant: str, target: str, tmp_path: Path) -> None:
    state = tiny_osnet(variant)
    model = loaded(saved(tmp_path / "osnet.pth", state)).double()
    wide = {key: tensor.double() for key, tensor in state.items()}
    other = torch.rand(3, FEATURE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    chosen = {"similarity": similarity_target(other), "label": torch.tensor([2, 0, 5])}.get(target, target)
    found = extract_maps(model, IMAGES, MAPS, chosen)
    named = model.forward_with_attention(IMAGES)
    for row, image in enumerate(IMAGES):
        places = reference_osnet.last_places(wide, normalised(image)).requires_grad_(True)
        feature, logits = reference_osnet.read_out(wide, places)
        score = {
            "predicted": logits.max(),
            "label": logits[[2, 0, 5][row]],
            "feature": feature.sum(),
            "similarity": torch.cosine_similarity(feature, other[row], dim=0),
        }[target]
        (gradient,) = torch.autograd.grad(score, places)
        places = places.detach()
        assert found.predicted[row] == logits.argmax()
        torch.testing.assert_close(named["features"][row], feature.detach())
        torch.testing.assert_close(named["logits"][0][row], logits.detach())
        torch.testing.assert_close(found.score[row].item(), score.item(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.maps["activation"][row], (places**2).sum(0))
        for method in GRADIENT_METHODS:
            wanted = reference_osnet.cam(places, gradient, method)
            torch.testing.assert_close(found.maps[f"{method}/conv5"][row], wanted, msg=f"{method} {row}")
    assert found.attention_heads.shape == (3, 0, 4, 2) and model.config.default_maps == tuple(
        MAPS[i] for i in (0, 2, 3)
    )


@pytest.mark.parametrize(
    ("channels", "width"),
    [((16, 64, 96, 128), "x0.25"), ((32, 128, 192, 256), "x0.5"), ((48, 192, 288, 384), "x0.75"),
     ((64, 256, 384, 512), "x1")],
)  # fmt: skip
def test_every_width_is_told_by_its_channels(channels: tuple[int, ...], width: str, tmp_path: Path) -> None:
    info = inspect_checkpoint(saved(tmp_path / "osnet.pth", tiny_osnet(channels=channels)))
    listed = ", ".join(map(str, channels))
    assert (info.family, info.config.facts) == ("OSNet", {"network": f"{width}, channels {listed}, no instance norms"})
    assert (info.config.image_size, info.config.grid, info.config.cell) == ((256, 128), (16, 8), (16, 16))
    assert (info.config.num_classes, info.config.feature_dim) == (CLASSES, FEATURE)
    assert (info.config.mean, info.config.std) == (MEAN, STD)
    assert type(info.config).fields_from(info.config.to_dict())["channels"] == channels
    assert info.config.to_dict()["family"] == "osnet" and set(info.config.assumed) == {"image_size", "mean", "std"}


@pytest.mark.parametrize(("variant", "name"), [("ibn", "OSNet-IBN"), ("ain", "OSNet-AIN")])
def test_the_variants_have_names_of_their_own(variant: str, name: str, tmp_path: Path) -> None:
    info = inspect_checkpoint(saved(tmp_path / "osnet.pth", tiny_osnet(variant)))
    assert info.family == name and f"instance norms ({variant.upper()})" in info.config.facts["network"]


def test_prefixes_and_half_weights_make_no_difference(tmp_path: Path) -> None:
    state = {key: t.half().float() if t.is_floating_point() else t for key, t in tiny_osnet().items()}
    plain = loaded(saved(tmp_path / "plain.pth", state))
    prefixed = {f"module.{key}": t.half() if t.is_floating_point() else t for key, t in state.items()}
    torch.save({"state_dict": prefixed, "epoch": 3}, tmp_path / "other.pth")
    torch.testing.assert_close(loaded(tmp_path / "other.pth")(IMAGES), plain(IMAGES))


def test_maps_do_not_depend_on_the_batch_and_leave_nothing(tmp_path: Path) -> None:
    model = loaded(saved(tmp_path / "osnet.pth", tiny_osnet())).requires_grad_(True)
    whole = extract_maps(model, IMAGES, MAPS)
    for row in range(3):
        alone = extract_maps(model, IMAGES[row : row + 1], MAPS)
        for name in MAPS:
            torch.testing.assert_close(alone.maps[name][0], whole.maps[name][row], rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_is_of_the_convolutions_alone(precision: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "osnet.pth", tiny_osnet("ain"))
    images = torch.randint(0, 256, (16, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    exact = extract_maps(loaded(path), images, MAPS, "feature")
    model = load_model(path, device="cpu", precision=precision, image_size=SIZE)
    kept = {name for name, value in model.named_parameters() if value.dtype == torch.float32}
    assert {"conv1.bn.weight", "conv2.0.conv3.bn.bias", "fc.0.weight", "classifier.weight"} <= kept
    assert model.dtype != torch.float32 and not any(name.endswith("conv.weight") for name in kept)
    rough = extract_maps(model, images, MAPS, "feature")
    for name in MAPS:
        pairs = zip(exact.maps[name].flatten(1), rough.maps[name].flatten(1), strict=True)
        assert np.median([np.corrcoef(a, b)[0, 1] for a, b in pairs]) > 0.98, name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra.weight": torch.zeros(2)}, "unexpected extra.weight"),
        ({"conv2.0.conv2b.1.bn.weight": None}, "missing conv2.0.conv2b.1.bn.weight"),
        ({"fc.1.bias": None}, "missing fc.1.bias"),
        ({"classifier.weight": None}, "the tensor classifier.weight is missing"),
        ({"conv5.conv.weight": torch.zeros(64, 128, 1, 1)}, r"wrong shapes: conv5.conv.weight is \(64, 128, 1, 1\)"),
        ({"conv4.0.conv3.conv.weight": torch.zeros(32, 8, 1, 1)}, "channels .* a stage has at least 64"),
        ({"conv3.0.IN.weight": torch.ones(96)}, "no known family"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change: dict[str, Tensor | None], words: str, tmp_path: Path) -> None:
    state = {key: tensor for key, tensor in (tiny_osnet() | change).items() if tensor is not None}
    with pytest.raises((CheckpointError, ModelError), match=words):
        load_model(saved(tmp_path / "osnet.pth", state), device="cpu")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_size": (250, 128)}, r"image size \(250, 128\): the sides must be multiples of 16 pixels"),
        ({"neck_feat": "after"}, "neck_feat is 'after', but OSNet has no neck"),
        ({"num_classes": 8}, "num_classes is 8 in the configuration, but the checkpoint's tensors say 7"),
        ({"variant": "ain"}, "variant is ain in the configuration, but the checkpoint's tensors say plain"),
        ({"stride": 12}, "no field 'stride'"),
    ],
)
def test_what_is_stated_must_fit(given: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        load_model(saved(tmp_path / "osnet.pth", tiny_osnet()), device="cpu", **given)  # type: ignore[arg-type]


def test_what_it_cannot_give_is_refused_by_name(tmp_path: Path) -> None:
    model = loaded(saved(tmp_path / "osnet.pth", tiny_osnet()))
    with pytest.raises(ModelError, match="no camera embedding"):
        extract_maps(model, IMAGES, ["activation"], cameras=2)
    with pytest.raises(ModelError, match="the head 'proj' is none of this model's: classifier"):
        extract_maps(model, IMAGES, ["activation"], head="proj")
    with pytest.raises(ModelError, match="OSNet checkpoints read no texts"):
        model.add_prompts({"bag": None})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"images are \(3, 3, 32, 32\), expected \(B, 3, 64, 32\)"):
        model(IMAGES[:, :, :32])
    with pytest.raises(ModelError, match="there is no attention"):
        model.trace(IMAGES)
    for name, words in {
        "rollout": "rollout: this model has no attention to follow .* its maps are activation, ",
        "chefer": "chefer: this model has no attention",
        "gradcam/vit_norm": "unknown map 'gradcam/vit_norm'.* and layer conv5$",
        "mim_attention": "unknown map 'mim_attention'.* The maps of this model are activation and ",
    }.items():
        with pytest.raises(CamError, match=words):
            extract_maps(model, IMAGES, [name])
    with pytest.raises(CamError, match="text"):
        extract_maps(model, IMAGES, ["gradcam/conv5"], "text")
    assert map_names(model, "all", "all") == [*(f"{method}/conv5" for method in GRADIENT_METHODS), "activation"]


@pytest.fixture(scope="session")
def trained() -> Path:
    path = SHARED / "trained" / "osnet_x0_25_market1501.pth"
    if not path.is_file():
        pytest.skip("needs trained weights beside the checkout (PROMPTSG_SHARED)")
    return path


def test_trained_weights_know_a_person_of_their_training_set(trained: Path, market_sample: Path) -> None:
    model = load_model(trained, device="cpu", precision="fp32")
    files = sorted((market_sample / "bounding_box_train").glob("0090_*.jpg"))
    images = torch.stack([resize_image(decode_image(file.read_bytes()), (256, 128)) for file in files])
    found = extract_maps(model, images, model.config.default_maps)
    assert len(files) == 5 and found.predicted.tolist() == [38] * 5  # 0090 is number 38 of the 751, counted from 0
    assert found.probability[0].item() == pytest.approx(0.830, abs=5e-4)
    assert all(values.amin() >= 0 and (values.amax((1, 2)) > 0).all() for values in found.maps.values())
