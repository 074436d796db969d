"""A map's extent in absolute numbers, which the colours of a map scaled by itself do not show."""

from __future__ import annotations

from cam.names import MapName
from cam.overlay import Map


def extent_of(name: str, map: Map) -> str:
    """The extent of an (h, w) map, for a caption.

    The patches of an attention map have a sum of at most 1. It is described by its peak as a multiple of the uniform
    1 / (h * w). Other maps are described by their extremes: a map from 3.8 to 5.5 is nearly flat, however sharp it
    looks.
    """
    low, top = float(map.min()), float(map.max())
    if MapName.parse(name).is_attention:
        return f"peak {top * map.size:.3g}x uniform"
    return "all zero" if low == top == 0 else f"{low:.3g} to {top:.3g}"
