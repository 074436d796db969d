"""cam on a model that is not a PromptSG: a small CNN with layers and maps of its own names."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cam import CamError, GradCAM, extract_maps, map_names, similarity_target
from cam.protocol import TappedModel


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
    features: Tensor
    native_maps: dict[str, Tensor]
    attention_heads: Tensor
    taps: dict[str, Kept] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


class SmallCnn(nn.Module):
    """A convolution with ReLU, the mean over positions, a linear classifier."""

    grid = (4, 2)
    native_maps = ("activation", "activation:squared")
    config = Scale()

    def __init__(self) -> None:
        super().__init__()
        self.conv5 = nn.Conv2d(3, 6, 4, stride=4)
        self.fc = nn.Linear(6, 5)

    @property
    def layers(self) -> dict[str, Place]:
        return {"conv5": Place(modules=("conv5",))}

    def encode(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.relu(self.conv5(images.float() / 255)).flatten(2).transpose(1, 2)

    def head(self, encoded: Tensor, taps: Collection[str] = ()) -> Out:
        patches = encoded.detach().requires_grad_(True) if taps else encoded
        with torch.set_grad_enabled(bool(taps)):
            features = patches.mean(dim=1)
            return Out(
                logits=self.fc(features),
                features=features,
                native_maps={"activation": encoded.sum(2), "activation:squared": encoded.square().sum(2)},
                attention_heads=encoded.new_zeros(len(encoded), 0, encoded.shape[1]),
                taps={name: Kept(patches, patches) for name in taps},
            )

    def trace(self, images: Tensor, gradient: bool = True) -> tuple[Out, list[Tensor]]:
        raise NotImplementedError


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
    assert map_names(model, "all", "conv5")[:4] == ["gradcam/conv5", "gradcam++/conv5", "hirescam/conv5", "activation"]
    own = similarity_target(model.encode(IMAGES).mean(1))
    np.testing.assert_allclose(extract_maps(model, IMAGES, ["activation"], own).score.numpy(), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gradcam/conv4", r"unknown map 'gradcam/conv4'; did you mean gradcam/conv5\? .* and layer conv5$"),
        ("mim_attention", "unknown map 'mim_attention'.* The maps of this model are activation, activation:squared, "),
        ("activation:cubed", "activation:cubed: the model was given no prompt called cubed; it has squared"),
        ("gradcam/mim", "unknown map 'gradcam/mim'"),
    ],
)
def test_what_another_model_lacks_is_refused_in_its_own_words(model: SmallCnn, name: str, message: str) -> None:
    with pytest.raises(CamError, match=message):
        extract_maps(model, IMAGES, [name])
