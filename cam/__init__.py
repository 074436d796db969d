"""Maps from activations and gradients, for any model that offers taps.

Names are imported on first use: what needs only numpy and OpenCV does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cam.classes import GradCAM, GradCAMPlusPlus, HiResCAM, MIMAttentionCAM, visualize_gradcam
    from cam.errors import CamError
    from cam.extract import Extraction, extract_maps
    from cam.names import MapName
    from cam.overlay import apply_colormap, denormalize_image, overlay_heatmap

_HOMES = {
    "CamError": "errors",
    "Extraction": "extract",
    "GradCAM": "classes",
    "GradCAMPlusPlus": "classes",
    "HiResCAM": "classes",
    "MIMAttentionCAM": "classes",
    "MapName": "names",
    "apply_colormap": "overlay",
    "denormalize_image": "overlay",
    "extract_maps": "extract",
    "overlay_heatmap": "overlay",
    "visualize_gradcam": "classes",
}
__all__ = [
    "CamError",
    "Extraction",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "MIMAttentionCAM",
    "MapName",
    "apply_colormap",
    "denormalize_image",
    "extract_maps",
    "overlay_heatmap",
    "visualize_gradcam",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
