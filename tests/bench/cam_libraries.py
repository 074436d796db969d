"""pytorch-grad-cam and captum, each given a plain module with one graph from the image to the logits.

`WholeGraph` is our own model, with our kernels and 8 text tokens: on it a ratio measures the way and not the model.
`StockGraph` is the documented model in torch.nn's modules, which is what their users have.

Legend: B batch, N = 1+M tokens (CLS first), D channels, h w grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus
from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from promptsg_core.families.promptsg.model import PromptSG
from tests.bench.reference_stock import StockReference

LAYERS = ("mim", "vit_last", "vit_proj")
METHODS: Mapping[str, type] = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus}
Maps = dict[str, Any]


class WholeGraph(nn.Module):
    """Images to the MIM head's logits in one graph; `places` see each layer's patches as (B, D, h, w) if asked for."""

    def __init__(self, model: PromptSG, spread: bool = False) -> None:
        super().__init__()
        self.model, self.grid = model, model.grid
        self.places = nn.ModuleDict({name: nn.Identity() for name in LAYERS}) if spread else None

    @property
    def layers(self) -> dict[str, nn.Module]:
        """The modules whose outputs the layers are, tokens first."""
        model = self.model
        return {
            "mim": model.mim.blocks[-1].norm1,
            "vit_last": model.image_encoder.transformer.blocks[-1],
            "vit_proj": model.image_encoder.ln_post,
        }

    def reshape_of(self, name: str) -> Callable[[Tensor], Tensor]:
        """What pytorch-grad-cam calls a reshape_transform."""
        return _reshape_to(self.grid)

    def open(self, name: str, tokens: Tensor) -> Tensor:
        """(B, N, D) -> the same tokens, whose patches have passed through a module of their own on the grid."""
        if self.places is None:
            return tokens
        patches = self.places[name](to_grid(tokens, self.model.grid))
        return torch.cat([tokens[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, C)."""
        model = self.model
        tokens = self.open("vit_last", model.image_encoder(model.prepare(images)))
        post = self.open("vit_proj", model.image_encoder.ln_post(tokens))
        projected = post @ model.image_encoder.proj
        v, patches = projected[:, 0], projected[:, 1:]
        mim = model.mim(model.encode_text(v), v, patches, self)
        return model.classifier_proj(model.bottleneck_proj(mim.v_final.to(model.head_dtype)))


class StockGraph(nn.Module):
    """Images to the MIM head's logits in one graph through the documented modules."""

    def __init__(self, stock: StockReference) -> None:
        super().__init__()
        self.stock, self.grid = stock, stock.config.grid

    @property
    def layers(self) -> dict[str, nn.Module]:
        """The modules whose outputs the layers are, tokens first."""
        stock = self.stock
        return {"mim": stock.post_blocks[-1].ln_1, "vit_last": stock.blocks[-1], "vit_proj": stock.tower.ln_post}

    def reshape_of(self, name: str) -> Callable[[Tensor], Tensor]:
        """What pytorch-grad-cam calls a reshape_transform; its blocks have the tokens before the batch."""
        reshape = _reshape_to(self.grid)
        return reshape if name == "vit_proj" else lambda tokens: reshape(tokens.transpose(0, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, C)."""
        return self.stock.trace(images)[1].float()


def to_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, N, D) -> (B, D, h, w), CLS dropped; what pytorch-grad-cam calls a reshape_transform."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)


def _reshape_to(grid: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    return lambda tokens: to_grid(tokens, grid).float()  # numpy, which the library computes in, has no bfloat16


def pytorch_grad_cam_public(graph: WholeGraph | StockGraph, images: Tensor, size: tuple[int, int]) -> Maps:
    """Six maps as the library's documentation has it, one call each: (B, *size), scaled to 0..1 per image.

    The call resizes to the input's size; for another end point only that number is replaced.
    """
    found = {}
    for method, kind in METHODS.items():
        for name, layer in graph.layers.items():
            with kind(graph, [layer], reshape_transform=graph.reshape_of(name)) as cam:
                cam.get_target_width_height = lambda _: size[::-1]
                found[f"{method}/{name}"] = cam(input_tensor=images, targets=None)
    return found


def pytorch_grad_cam_raw(
    graph: WholeGraph | StockGraph,
    images: Tensor,
    methods: Sequence[str] = tuple(METHODS),
    classes: Tensor | None = None,
) -> Maps:
    """Six raw maps (B, h, w) from one forward and one backward pass: the library's hooks and its `get_cam_image`.

    The parameters may be frozen: the input is made to require a gradient. `classes`: as predicted unless given.
    """
    kept = {
        name: ActivationsAndGradients(graph, [layer], graph.reshape_of(name)) for name, layer in graph.layers.items()
    }
    try:
        logits = graph(images.detach().requires_grad_(True))
        targets = [ClassifierOutputTarget(int(row)) for row in (logits.argmax(dim=1) if classes is None else classes)]
        sum(target(output) for target, output in zip(targets, logits, strict=True)).backward()
        found = {}
        for name, layer in graph.layers.items():
            activations, gradients = kept[name].activations[0].numpy(), kept[name].gradients[0].numpy()
            for method in methods:
                cam = METHODS[method].__new__(METHODS[method])  # its constructor would only add hooks of its own
                cam.activations_and_grads = kept[name]  # its destructor releases these
                raw = cam.get_cam_image(images, layer, targets, activations, gradients)
                found[f"{method}/{name}"] = np.maximum(raw, 0)
        return found
    finally:
        for hooks in kept.values():
            hooks.release()


def pytorch_grad_cam_tuned(graph: WholeGraph | StockGraph, images: Tensor, size: tuple[int, int] | None) -> Maps:
    """`pytorch_grad_cam_raw`, resized by the library's own function where a size is given."""
    raw = pytorch_grad_cam_raw(graph, images)
    return raw if size is None else {name: scale_cam_image(maps, size[::-1]) for name, maps in raw.items()}


def captum_maps(graph: WholeGraph, images: Tensor, classes: Tensor, size: tuple[int, int] | None) -> Maps:
    """Three GradCAM maps (B, h, w) of given classes, one `LayerGradCam.attribute` each; captum has no GradCAM++."""
    found = {}
    for name, place in graph.places.items():
        maps = LayerGradCam(graph, place).attribute(images, target=classes, relu_attributions=True).detach()
        if size is not None:
            maps = F.interpolate(maps.float(), size, mode="bilinear")
        found[f"gradcam/{name}"] = maps[:, 0]
    return found
