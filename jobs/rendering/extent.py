"""A map's extent in absolute numbers, which the colours of a map scaled by itself do not show."""

from __future__ import annotations

from collections.abc import Sequence

from cam.names import MapName, column_of
from cam.overlay import Map

GRID_COLUMNS = ("grid_h", "grid_w")


def extent_of(name: str, map: Map) -> str:
    """The extent of an (h, w) map, for a caption."""
    return extent_text(name, float(map.min()), float(map.max()), map.size)


def extent_text(name: str, low: float, top: float, patches: int) -> str:
    """The extent of a map with these extremes, for a caption.

    The patches of an attention map have a sum of at most 1. It is described by its peak as a multiple of the uniform
    1 / patches. Other maps are described by their extremes: a map from 3.8 to 5.5 is nearly flat, however sharp it
    looks.
    """
    if MapName.parse(name).is_attention:
        return f"peak {top * patches:.3g}x uniform"
    return "all zero" if low == top == 0 else f"{low:.3g} to {top:.3g}"


def end_columns(name: str) -> tuple[str, str]:
    """The metadata's columns with the extremes of a map."""
    return f"{column_of(name)}_min", f"{column_of(name)}_max"


def extent_columns(maps: Sequence[str], known: Sequence[str]) -> list[str]:
    """The metadata's columns that tell the extents of maps, those of them that the run has."""
    ends = (column for name in maps for column in end_columns(name))
    return [column for column in (*GRID_COLUMNS, *ends) if column in known]
