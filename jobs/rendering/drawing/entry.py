"""One image of a run: its metadata, the image ready to be drawn, and what its captions say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict, cast

import pyarrow as pa

from cam.names import MapName
from cam.overlay import Map, Picture
from jobs.phrases import shown


class _OptionalColumns(TypedDict, total=False):
    image_crc32: int | None


class ImageRow(_OptionalColumns):
    """The metadata row of one image that is drawn; its fields are columns of the metadata."""

    shard: str
    key: str
    tar_index: int
    h5_row: int
    pid: int | None
    camid: int | None
    split: str | None
    width: int
    height: int
    image_offset: int | None
    image_size: int


ROW_COLUMNS = tuple(name for name in ImageRow.__annotations__ if name in ImageRow.__required_keys__)


def rows_of(table: pa.Table) -> list[ImageRow]:
    """The rows of a table of the metadata, which has at least ROW_COLUMNS."""
    columns = [name for name in ImageRow.__annotations__ if name in table.column_names]
    return cast("list[ImageRow]", table.select(columns).to_pylist())


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image: its metadata row, (H, W, 3) RGB pixels at the size to draw, and those of its maps that it has."""

    row: ImageRow
    image: Picture
    maps: Mapping[str, Map]

    @property
    def name(self) -> str:
        """The image's key, for a caption."""
        return shown(self.row["key"])

    def title(self) -> str:
        """Who this is and where: `pid 12  cam 3`, both as in the metadata (cameras count from 0)."""
        return f"pid {or_unknown(self.row['pid'])}  cam {or_unknown(self.row['camid'])}"

    def extent(self, name: str) -> str:
        """A map's extent in absolute numbers, which the colours of a map scaled by itself do not show.

        The patches of an attention map have a sum of at most 1. It is described by its peak as a multiple of the
        uniform 1 / (h * w). Other maps are described by their extremes: a map from 3.8 to 5.5 is nearly flat, however
        sharp it looks.
        """
        if name not in self.maps:
            return "no map"
        map = self.maps[name]
        low, top = float(map.min()), float(map.max())
        if MapName.parse(name).is_attention:
            return f"peak {top * map.size:.3g}x uniform"
        return f"{low:.3g} to {top:.3g}"


def or_unknown(number: int | None) -> str:
    """A number for a caption, ? where the metadata have none."""
    return "?" if number is None else str(number)
