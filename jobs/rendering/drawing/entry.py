"""One image of a run: its metadata, the image ready to be drawn, and what its captions say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict, cast

import pyarrow as pa

from cam.overlay import Map, Picture
from jobs.phrases import shown
from jobs.rendering.drawing.captions import who_text
from jobs.rendering.extent import extent_of


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
    """One image: its metadata row, (H, W, 3) RGB pixels at the size to draw, and those of its maps that it has.

    `others` are those of its maps in another run, where two are compared.
    """

    row: ImageRow
    image: Picture
    maps: Mapping[str, Map]
    others: Mapping[str, Map] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The image's key, for a caption."""
        return shown(self.row["key"])

    def title(self) -> str:
        """Who this is and where: `pid 12  cam 3 (c4)`."""
        return who_text(self.row["pid"], self.row["camid"], between="  ")

    def extent(self, name: str) -> str:
        """A map's extent in absolute numbers; see `extent_of`."""
        return extent_of(name, self.maps[name]) if name in self.maps else "no map"
