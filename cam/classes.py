"""The one-image API that older scripts use: GradCAM, GradCAMPlusPlus, MIMAttentionCAM, visualize_gradcam.

All of it stands on `extract_maps`: nothing is hooked, so nothing stays on the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cam.errors import CamError
from cam.extract import TappedModel, extract_maps
from cam.names import ATTENTION, GRADIENT_METHODS, METHOD_NAMES
from cam.overlay import DEFAULT_ALPHA, DEFAULT_COLORMAP, Picture, denormalize_image, heatmap, overlay_heatmap
from cam.panels import captioned, column, enlarged, row
from cam.targets import Target, output_of

Heatmaps = NDArray[np.float32]
Layers = str | nn.Module | Sequence[str | nn.Module]
Category = int | Sequence[int] | Tensor | str | Target | None
_PANEL_HEIGHT = 256


class _Cam:
    """A method on layers of a model; a context manager whose end has nothing to undo."""

    method = ""

    def __init__(self, model: Any, target_layers: Layers = "mim") -> None:
        self.model: TappedModel = model
        self.layers = layer_names(model, target_layers)

    def __call__(self, images: Tensor, target_category: Category = None) -> Heatmaps | dict[str, Heatmaps]:
        """(B, 3, H, W) or (3, H, W), uint8 RGB or normalised -> raw (B, h, w) or (h, w) float32 on the patch grid.

        Several layers give a dict by layer. `target_category` is a class, one per image, a target's name, or None for
        the predicted class. Raises CamError for a layer that the target cannot reach.
        """
        names = [f"{self.method}/{layer}" for layer in self.layers]
        batch = images if images.ndim == 4 else images.unsqueeze(0)
        found = extract_maps(self.model, batch, names, _target(target_category)).maps
        maps = {layer: _numpy(found[name], images.ndim) for layer, name in zip(self.layers, names, strict=True)}
        return maps if len(maps) > 1 else maps[self.layers[0]]

    def remove_hooks(self) -> None:
        """Nothing to do: there are no hooks. Kept for code that was written for hooks."""

    def __enter__(self) -> _Cam:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove_hooks()


class GradCAM(_Cam):
    """GradCAM (arXiv:1610.02391) on layers given by name or by the model's own submodules."""

    method = "gradcam"


class GradCAMPlusPlus(_Cam):
    """GradCAM++ (arXiv:1710.11063) on rectified features; see `cam.methods.gradcam_plus_plus`."""

    method = "gradcam++"


class HiResCAM(_Cam):
    """HiResCAM (arXiv:2011.08891)."""

    method = "hirescam"


class MIMAttentionCAM(_Cam):
    """The MIM's cross-attention: no gradient, no layer."""

    method = ATTENTION

    def __init__(self, model: Any) -> None:
        super().__init__(model)

    def __call__(self, images: Tensor, target_category: Category = None) -> Heatmaps:
        """(B, 3, H, W) or (3, H, W) -> (B, h, w) or (h, w) float32 summing to 1; the target plays no part."""
        batch = images if images.ndim == 4 else images.unsqueeze(0)
        return _numpy(extract_maps(self.model, batch, [ATTENTION]).maps[ATTENTION], images.ndim)


def visualize_gradcam(
    model: Any,
    image_tensor: Tensor,
    target_layers: Layers = "mim",
    method: str = "gradcam",
    save_path: str | Path | None = None,
    show: bool = False,
    target_category: Category = None,
    colormap: str = DEFAULT_COLORMAP,
    alpha: float = DEFAULT_ALPHA,
) -> Picture:
    """A picture original | heatmap | overlay for each image and layer -> uint8 RGB (H, W, 3), saved and shown if asked.

    `image_tensor` is (B, 3, H, W) or (3, H, W), uint8 RGB or normalised by the model's own mean and std; `method` is
    any of gradcam, gradcam++, hirescam, mim_attention, rollout, chefer or all.
    """
    batch = image_tensor if image_tensor.ndim == 4 else image_tensor.unsqueeze(0)
    target = _target(target_category)
    name_of_target = target if isinstance(target, str) else getattr(target, "name", "label")
    names = map_names(model, method, target_layers, name_of_target)
    found = extract_maps(model, batch, names, target)
    images = _pictures(model, batch)
    rows = []
    for number, image in enumerate(images):
        cells = [captioned(enlarged(image, _PANEL_HEIGHT), ["original"])]
        for name in names:
            values = _numpy(found.maps[name][number], 2)
            size = (_PANEL_HEIGHT, cells[0].shape[1])
            heat = heatmap(values, size, colormap=colormap)
            over = overlay_heatmap(enlarged(image, _PANEL_HEIGHT), values, colormap=colormap, alpha=alpha)
            cells.append(captioned(row([heat, over], gap=2), [f"{name}  {values.min():.3g} to {values.max():.3g}"]))
        rows.append(row(cells))
    picture = column(rows)
    if save_path is not None:
        from PIL import Image

        Image.fromarray(picture).save(save_path)
    if show:
        _show(picture)
    return picture


def map_names(model: Any, method: str, layers: Layers, target: str = "predicted") -> list[str]:
    """The maps that a method and layers stand for; under `all`, of either, those that cannot be had are left out."""
    if method != "all" and method not in METHOD_NAMES:
        raise CamError(f"unknown method {method!r}; methods are {', '.join(METHOD_NAMES)} and all")
    found: list[str] = []
    for name in METHOD_NAMES if method == "all" else (method,):
        if name in GRADIENT_METHODS:
            chosen = layer_names(model, layers)
            if "all" in (method, layers):
                chosen = [layer for layer in chosen if _can_be_had(model.layers[layer], name, target)]
            found += [f"{name}/{layer}" for layer in chosen]
        else:
            found.append(name)
    return found


def _can_be_had(layer: Any, method: str, target: str) -> bool:
    return output_of(target) in layer.outputs and (method != "hirescam" or layer.read_through_norm is None)


def layer_names(model: Any, layers: Layers) -> list[str]:
    """Layers by name, or by the submodules that older code passed; `all` is every layer.

    Raises CamError, naming the layers, for one that this model does not have.
    """
    known: Mapping[str, Any] = model.layers
    if isinstance(layers, (str, nn.Module)):
        layers = list(known) if layers == "all" else [layers]
    return list(dict.fromkeys(_layer_name(model, known, layer) for layer in layers))


def _layer_name(model: Any, known: Mapping[str, Any], layer: str | nn.Module) -> str:
    if isinstance(layer, str):
        if layer in known:
            return layer
        raise CamError(f"unknown layer {layer!r}; layers are {', '.join(known)}")
    paths = {module: path for path, module in model.named_modules()}
    for name, spec in known.items():
        if paths.get(layer) in spec.modules:
            return name
    where = paths.get(layer, "no part of this model")
    raise CamError(f"no map lies on {type(layer).__name__} ({where}); layers are {', '.join(known)}")


def _target(category: Category) -> str | Target | int | Tensor:
    if category is None:
        return "predicted"
    if isinstance(category, np.integer):
        return int(category)
    if isinstance(category, (str, int, Target, Tensor)):
        return category
    return torch.as_tensor(list(category))


def _pictures(model: Any, batch: Tensor) -> Picture:
    """(B, 3, H, W) -> uint8 RGB (B, H, W, 3)."""
    if batch.dtype == torch.uint8:
        return batch.permute(0, 2, 3, 1).cpu().numpy()
    return denormalize_image(batch, model.config.mean, model.config.std)


def _numpy(maps: Tensor, dimensions: int) -> Heatmaps:
    """The maps on the host; the first row alone for an input that had no batch."""
    array: Heatmaps = maps.float().cpu().numpy()
    return array[0] if dimensions == 3 and array.ndim == 3 else array


def _show(picture: Picture) -> None:
    import matplotlib.pyplot as plt

    plt.figure(figsize=(picture.shape[1] / 100, picture.shape[0] / 100))
    plt.imshow(picture)
    plt.axis("off")
    plt.show()
