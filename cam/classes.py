"""The API for a few images that older scripts use: GradCAM, GradCAMPlusPlus, MIMAttentionCAM, visualize_gradcam.

All of it stands on `extract_maps`: there are no hooks, so none stay on the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cam.available import LayerChoice, layer_names, map_names
from cam.extract import extract_maps
from cam.names import ATTENTION
from cam.overlay import DEFAULT_ALPHA, DEFAULT_COLORMAP, Picture, denormalize_image, heatmap, overlay_heatmap
from cam.panels import captioned, column, enlarged, row
from cam.placement import GridPlacement, placement_of
from cam.protocol import CameraChoice, Captions, E, PicturedModel, PixelScale
from cam.targets import Target

Heatmaps = NDArray[np.float32]
Category = int | Sequence[int] | Tensor | str | Target | None
_PANEL_HEIGHT = 256


class CamOnLayers(Generic[E]):
    """A method on layers of a model, by default its first; a context manager for code that expects one."""

    method = ""

    def __init__(self, model: PicturedModel[E], target_layers: LayerChoice | None = None) -> None:
        self.model = model
        self.layers = layer_names(model, target_layers)

    def __call__(
        self,
        images: Tensor,
        target_category: Category = None,
        *,
        head: str | None = None,
        cameras: CameraChoice | None = None,
        captions: Captions | None = None,
    ) -> Heatmaps | dict[str, Heatmaps]:
        """(B, 3, H, W) or (3, H, W), uint8 RGB or normalised -> raw (B, h, w) or (h, w) float32 on the patch grid.

        Several layers give a dict by layer. `target_category` is a class, one class per image, a target, a target's
        name, or None for the predicted class. `head`, `cameras` and `captions` are as for `extract_maps`. Raises
        CamError for a layer that the target does not reach.
        """
        names = {layer: f"{self.method}/{layer}" for layer in self.layers}
        target, wanted = _target(target_category), list(names.values())
        found = extract_maps(
            self.model, _batch(images), wanted, target, head=head, cameras=cameras, captions=captions
        ).maps
        maps = {layer: _numpy(found[name], images.ndim) for layer, name in names.items()}
        return maps if len(maps) > 1 else maps[self.layers[0]]

    def remove_hooks(self) -> None:
        """Does nothing, since there are no hooks. Kept for code that was written for hooks."""

    def __enter__(self) -> CamOnLayers[E]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove_hooks()


class GradCAM(CamOnLayers[E]):
    """GradCAM (arXiv:1610.02391) on layers that are given by name or by the model's own submodules.

    >>> from cam import GradCAM
    >>> with GradCAM(model, "mim") as cam:
    ...     maps = cam(images)
    >>> maps.shape == (len(images), *model.grid)
    True
    >>> by_layer = GradCAM(model, ["mim", model.classifier_proj])(images, target_category=3)
    >>> sorted(by_layer)
    ['classifier', 'mim']
    """

    method = "gradcam"


class GradCAMPlusPlus(CamOnLayers[E]):
    """GradCAM++ (arXiv:1710.11063) on rectified features; see `cam.methods.gradcam_plus_plus`.

    >>> from cam import GradCAMPlusPlus
    >>> one = GradCAMPlusPlus(model, "vit_proj")(images[0])
    >>> one.shape == model.grid and bool(one.min() >= 0)
    True
    """

    method = "gradcam++"


class HiResCAM(CamOnLayers[E]):
    """HiResCAM (arXiv:2011.08891).

    >>> from cam import HiResCAM, similarity_target
    >>> likeness = similarity_target(model(images[:1]).expand(len(images), -1))  # to the first image
    >>> HiResCAM(model)(images, likeness).shape == (len(images), *model.grid)
    True
    """

    method = "hirescam"


class MIMAttentionCAM(CamOnLayers[E]):
    """The MIM's cross-attention: no gradient, no layer.

    >>> from cam import MIMAttentionCAM
    >>> maps = MIMAttentionCAM(model)(images)
    >>> bool((abs(maps.sum(axis=(1, 2)) - 1) < 1e-5).all())
    True
    """

    method = ATTENTION

    def __init__(self, model: PicturedModel[E]) -> None:
        super().__init__(model, ())

    def __call__(
        self,
        images: Tensor,
        target_category: Category = None,
        *,
        head: str | None = None,
        cameras: CameraChoice | None = None,
        captions: Captions | None = None,
    ) -> Heatmaps:
        """(B, 3, H, W) or (3, H, W) -> (B, h, w) or (h, w) float32 summing to 1. The target plays no part."""
        batch = _batch(images)
        found = extract_maps(self.model, batch, [ATTENTION], head=head, cameras=cameras, captions=captions)
        return _numpy(found.maps[ATTENTION], images.ndim)


def visualize_gradcam(
    model: PicturedModel[E],
    image_tensor: Tensor,
    target_layers: LayerChoice | None = None,
    method: str = "gradcam",
    save_path: str | Path | None = None,
    show: bool = False,
    target_category: Category = None,
    colormap: str = DEFAULT_COLORMAP,
    alpha: float = DEFAULT_ALPHA,
    *,
    head: str | None = None,
    cameras: CameraChoice | None = None,
    captions: Captions | None = None,
) -> Picture:
    """A picture original | heatmap | overlay for each image and layer -> uint8 RGB (H, W, 3).

    `image_tensor` is (B, 3, H, W) or (3, H, W), uint8 RGB or normalised by the model's own mean and std. `method` is
    gradcam, gradcam++, hirescam, rollout, chefer, legrad, a map of the model's own such as mim_attention, or all. The
    picture is saved under `save_path` and shown with `show`. `head`, `cameras` and `captions` are as for
    `extract_maps`. Raises CamError on a method or layer that does not exist.

    >>> from cam import visualize_gradcam
    >>> picture = visualize_gradcam(model, images[0], "vit_proj", method="gradcam++", save_path="one.png")
    >>> picture.dtype, picture.shape[2]
    (dtype('uint8'), 3)
    """
    batch, target = _batch(image_tensor), _target(target_category)
    names = map_names(model, method, target_layers, _name_of(target), head)
    found = extract_maps(model, batch, names, target, head=head, cameras=cameras, captions=captions).maps
    placement = placement_of(model.config)
    rows = []
    for number, image in enumerate(_pictures(model.config, batch)):
        maps = {name: _numpy(found[name][number], 2) for name in names}
        rows.append(_draw_row(image, maps, colormap, alpha, placement))
    picture = column(rows)
    if save_path is not None:
        from PIL import Image

        Image.fromarray(picture).save(save_path)
    if show:
        _show(picture)
    return picture


def _draw_row(
    image: Picture, maps: Mapping[str, Heatmaps], colormap: str, alpha: float, placement: GridPlacement | None
) -> Picture:
    """original | heatmap | overlay for each map of one image."""
    original = enlarged(image, _PANEL_HEIGHT)
    cells = [captioned(original, ["original"])]
    for name, values in maps.items():
        heat = heatmap(values, original.shape[:2], colormap=colormap, placement=placement)
        over = overlay_heatmap(original, values, colormap=colormap, alpha=alpha, placement=placement)
        cells.append(captioned(row([heat, over], gap=2), [f"{name}  {values.min():.3g} to {values.max():.3g}"]))
    return row(cells)


def _batch(images: Tensor) -> Tensor:
    """(B, 3, H, W) or (3, H, W) -> (B, 3, H, W)."""
    return images if images.ndim == 4 else images.unsqueeze(0)


def _target(category: Category) -> str | Target | int | Tensor:
    if category is None:
        return "predicted"
    if isinstance(category, np.integer):
        return int(category)
    if isinstance(category, (str, int, Target, Tensor)):
        return category
    return torch.as_tensor(list(category))


def _name_of(target: str | Target | int | Tensor) -> str:
    if isinstance(target, Target):
        return target.name
    return target if isinstance(target, str) else "label"


def _pictures(scale: PixelScale, batch: Tensor) -> Picture:
    """(B, 3, H, W) -> uint8 RGB (B, H, W, 3)."""
    if batch.dtype == torch.uint8:
        return np.asarray(batch.permute(0, 2, 3, 1).cpu().numpy(), np.uint8)
    return denormalize_image(batch, scale.mean, scale.std)


def _numpy(maps: Tensor, dimensions: int) -> Heatmaps:
    """The maps on the host; for an image that came without a batch, its map alone."""
    array: Heatmaps = maps.float().cpu().numpy()
    return array[0] if dimensions == 3 and array.ndim == 3 else array


def _show(picture: Picture) -> None:
    import matplotlib.pyplot as plt

    plt.figure(figsize=(picture.shape[1] / 100, picture.shape[0] / 100))
    plt.imshow(picture)
    plt.axis("off")
    plt.show()
