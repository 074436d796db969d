"""cam on a model that is not a PromptSG: a small CNN with layers and maps of its own names."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cam import CamError, GradCAM, check_reachable, extract_maps, map_names, similarity_target, visualize_gradcam
from cam.names import RELEVANCE_METHODS, parse_names
from cam.protocol import CameraChoice, Captions, TappedModel


@dataclass(frozen=True)
class Place:
    outputs: frozenset[str] = frozenset({"logits", "features"})
    read_through_norm: str | None = None
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kept:
    activations: Tensor
    source: Tensor


@dataclass
class Out:
    logits: Tensor
    scores: Tensor
    features: Tensor
    native_maps: dict[str, Tensor]
    attention_heads: Tensor
    text_problem: str | None = None
    text_scores: Tensor | None = None
    taps: dict[str, Kept] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


class SmallCnn(nn.Module):
    """A convolution with ReLU, the mean over positions, a linear classifier."""

    grid = (4, 2)
    has_attention = False
    native_maps = ("activation", "activation:squared")
    config = Scale()

    def __init__(self) -> None:
        super().__init__()
        self.conv5 = nn.Conv2d(3, 6, 4, stride=4)
        self.fc = nn.Linear(6, 5)

    @property
    def layers(self) -> dict[str, Place]:
        return {"conv5": Place(modules=("conv5",))}

    def encode(self, images: Tensor, cameras: CameraChoice | None = None, captions: Captions | None = None) -> Tensor:
        with torch.no_grad():
            return torch.relu(self.conv5(images.float() / 255)).flatten(2).transpose(1, 2)

    def head(
        self,
        encoded: Tensor,
        taps: Collection[str] = (),
        head: str | None = None,
        native: Collection[str] | None = None,
    ) -> Out:
        patches = encoded.detach().requires_grad_(True) if taps else encoded
        with torch.set_grad_enabled(bool(taps)):
            features = patches.mean(dim=1)
            logits = self.fc(features)
            return Out(
                logits=logits,
                scores=logits,
                features=features,
                native_maps={"activation": encoded.sum(2), "activation:squared": encoded.square().sum(2)},
                attention_heads=encoded.new_zeros(len(encoded), 0, encoded.shape[1]),
                taps={name: Kept(patches, patches) for name in taps},
            )

    def trace(
        self,
        images: Tensor,
        gradient: bool = True,
        cameras: CameraChoice | None = None,
        head: str | None = None,
        captions: Captions | None = None,
    ) -> tuple[Out, list[Tensor]]:
        raise AssertionError("a model without attention was asked to follow it")

    def each_block(
        self,
        images: Tensor,
        encoded: Tensor,
        cameras: CameraChoice | None = None,
        head: str | None = None,
        captions: Captions | None = None,
    ) -> Iterator[tuple[Out, Tensor]]:
        raise AssertionError("a model without attention was asked to follow it")


@pytest.fixture
def model() -> Iterator[SmallCnn]:
    torch.manual_seed(0)
    yield SmallCnn().requires_grad_(False).eval()


IMAGES = torch.randint(0, 256, (3, 3, 16, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_maps_of_another_models_layers_and_its_own_maps(model: SmallCnn) -> None:
    tapped: TappedModel[Tensor] = model
    found = extract_maps(tapped, IMAGES, ["gradcam/conv5", "activation", "activation:squared"])
    activations = model.encode(IMAGES)
    assert list(found.maps) == ["gradcam/conv5", "activation", "activation:squared"]
    torch.testing.assert_close(found.maps["activation:squared"].flatten(1), activations.square().sum(2))
    # The classifier is linear in the mean: the gradient at every patch is the class's weight over the patches' number.
    weights = model.fc.weight[found.predicted] / 8
    wanted = torch.relu((activations * weights.unsqueeze(1)).sum(2))
    torch.testing.assert_close(found.maps["gradcam/conv5"].flatten(1), wanted)
    assert found.attention_heads.shape == (3, 0, 4, 2)


def test_the_classes_take_the_models_own_names_and_modules(model: SmallCnn) -> None:
    by_name, by_module = GradCAM(model, "conv5")(IMAGES), GradCAM(model, model.conv5)(IMAGES)
    assert isinstance(by_name, np.ndarray) and by_name.shape == (3, 4, 2)
    np.testing.assert_array_equal(by_name, by_module)
    assert map_names(model, "activation", "all") == ["activation"]
    assert map_names(model, "all", "conv5") == ["gradcam/conv5", "gradcam++/conv5", "hirescam/conv5", "activation"]
    own = similarity_target(model.encode(IMAGES).mean(1))
    np.testing.assert_allclose(extract_maps(model, IMAGES, ["activation"], own).score.numpy(), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gradcam/conv4", r"unknown map 'gradcam/conv4'; did you mean gradcam/conv5\? .* and layer conv5$"),
        (
            "mim_attention",
            "unknown map 'mim_attention'.* The maps of this model are activation, activation:squared and <method>/",
        ),
        ("activation:cubed", "activation:cubed: the model was given no prompt called cubed; it has squared"),
        ("gradcam/mim", "unknown map 'gradcam/mim'"),
    ],
)
def test_what_another_model_lacks_is_refused_in_its_own_words(model: SmallCnn, name: str, message: str) -> None:
    with pytest.raises(CamError, match=message):
        extract_maps(model, IMAGES, [name])


class Listening(SmallCnn):
    """It keeps what it is given beside images."""

    def encode(self, images: Tensor, cameras: CameraChoice | None = None, captions: Captions | None = None) -> Tensor:
        self.given = (cameras, captions)
        return super().encode(images, cameras, captions)


def test_the_classes_pass_on_the_texts_of_images() -> None:
    model, texts = Listening().eval(), ["a red coat", None, "a bag"]
    GradCAM(model, "conv5")(IMAGES, cameras=2, captions=texts)
    assert model.given == (2, texts)
    visualize_gradcam(model, IMAGES, "conv5", cameras="none", captions=texts)
    assert model.given == ("none", texts)


class Bare(SmallCnn):
    """It computes no maps itself, and no score passes through its first layer."""

    native_maps = ()  # type: ignore[assignment]

    @property
    def layers(self) -> dict[str, Place]:
        return {"unseen": Place(outputs=frozenset()), **super().layers}


def test_without_names_the_first_map_of_its_own_or_gradcam_plus_plus_is_taken(model: SmallCnn) -> None:
    assert list(extract_maps(model, IMAGES).maps) == ["activation"]
    assert list(extract_maps(Bare().eval(), IMAGES).maps) == ["gradcam++/conv5"]


class TwoHeads(SmallCnn):
    """Its usual score does not read the layer `side`; that of the head `both` does."""

    @property
    def layers(self) -> dict[str, Place]:
        return {**super().layers, "side": Place(outputs=frozenset({"logits:both", "features"}))}


def test_a_layer_that_one_head_alone_reads() -> None:
    model, target = TwoHeads(), "predicted"
    names = parse_names(["gradcam/side"])
    for head in (None, "usual"):
        with pytest.raises(CamError, match=r"predicted does not pass through layer side except with the head both; it"):
            check_reachable(model, names, target, head=head)
    check_reachable(model, names, target, head="both")
    check_reachable(model, names, "feature")
    assert map_names(model, "gradcam", "all") == ["gradcam/conv5"]
    assert map_names(model, "gradcam", "all", head="both") == ["gradcam/conv5", "gradcam/side"]


@pytest.mark.parametrize("method", RELEVANCE_METHODS)
def test_what_follows_attention_is_refused_without_attention(model: SmallCnn, method: str) -> None:
    wanted = f"{method}: this model has no attention to follow .* its maps are activation, activation:squared, gradcam"
    with pytest.raises(CamError, match=wanted):
        extract_maps(model, IMAGES, ["activation", method])
    with pytest.raises(CamError, match=wanted):
        map_names(model, method, "all")


class Attending(SmallCnn):
    """It says that it attends, and is older than `each_block`."""

    has_attention = True
    each_block = None  # type: ignore[assignment]


def test_a_model_that_does_not_read_out_its_blocks_has_no_legrad() -> None:
    model = Attending()
    wanted = (
        r"^legrad: this model does not read out its blocks one by one \(each_block\); its maps are activation, "
        r"activation:squared, rollout, chefer, gradcam\|gradcam\+\+\|hirescam/conv5$"
    )
    with pytest.raises(CamError, match=wanted):
        extract_maps(model, IMAGES, ["activation", "legrad"])
    with pytest.raises(CamError, match=wanted):
        map_names(model, "legrad", "all")
    assert map_names(model, "all", "conv5")[-2:] == ["rollout", "chefer"]


@pytest.mark.parametrize("method", RELEVANCE_METHODS)
def test_a_model_that_does_not_say_whether_it_attends_does_not(model: SmallCnn, method: str) -> None:
    parts = ("grid", "layers", "native_maps", "modules", "encode", "head", "trace", "each_block")
    silent = cast(SmallCnn, SimpleNamespace(**{name: getattr(model, name) for name in parts}))
    with pytest.raises(CamError, match=f"^{method}: this model has no attention to follow"):
        extract_maps(silent, IMAGES, [method])
    assert list(extract_maps(silent, IMAGES, ["activation"]).maps) == ["activation"]
