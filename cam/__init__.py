"""Maps from activations and gradients, for any model that offers taps.

May use nothing else of this project. Names are imported on first use: what needs only numpy and OpenCV starts without
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cam.available import check_reachable as check_reachable
    from cam.available import layer_names as layer_names
    from cam.available import map_names as map_names
    from cam.classes import GradCAM as GradCAM
    from cam.classes import GradCAMPlusPlus as GradCAMPlusPlus
    from cam.classes import HiResCAM as HiResCAM
    from cam.classes import MIMAttentionCAM as MIMAttentionCAM
    from cam.classes import visualize_gradcam as visualize_gradcam
    from cam.errors import CamError as CamError
    from cam.extract import Extraction as Extraction
    from cam.extract import extract_maps as extract_maps
    from cam.measures import measure_maps as measure_maps
    from cam.names import MapName as MapName
    from cam.overlay import apply_colormap as apply_colormap
    from cam.overlay import denormalize_image as denormalize_image
    from cam.overlay import overlay_heatmap as overlay_heatmap
    from cam.protocol import TappedModel as TappedModel
    from cam.targets import Target as Target
    from cam.targets import class_target as class_target
    from cam.targets import similarity_target as similarity_target

_MODULES = {
    "CamError": "errors",
    "Extraction": "extract",
    "GradCAM": "classes",
    "GradCAMPlusPlus": "classes",
    "HiResCAM": "classes",
    "MIMAttentionCAM": "classes",
    "MapName": "names",
    "TappedModel": "protocol",
    "Target": "targets",
    "apply_colormap": "overlay",
    "check_reachable": "available",
    "class_target": "targets",
    "denormalize_image": "overlay",
    "extract_maps": "extract",
    "layer_names": "available",
    "map_names": "available",
    "measure_maps": "measures",
    "overlay_heatmap": "overlay",
    "similarity_target": "targets",
    "visualize_gradcam": "classes",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
