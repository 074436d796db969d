"""Maps from activations and gradients, for any model that offers taps.

Names are imported on first use: what needs only numpy and OpenCV does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cam.errors import CamError
    from cam.extract import Extraction, extract_maps
    from cam.names import MapName

_HOMES = {
    "CamError": "errors",
    "Extraction": "extract",
    "MapName": "names",
    "extract_maps": "extract",
}
__all__ = ["CamError", "Extraction", "MapName", "extract_maps"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
