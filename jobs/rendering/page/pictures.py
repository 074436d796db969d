"""The pictures and map scripts of a gallery: their names, and drawing them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cam.overlay import Picture, Range, scale_map
from cam.panels import fitting
from jobs.arrays import Float32Array
from jobs.progress import LongTask
from jobs.rendering.drawing.entry import ImageRow, rows_of
from jobs.rendering.image_files import decode_row, naming, sized
from jobs.rendering.page.rows import GalleryRows, GalleryStyle
from jobs.rendering.processes import in_processes
from jobs.shards.random_access import Source, SourceImages

PART = 100  # rows per folder of pictures and per script of maps: folders stay listable, a script loads at once
ORIGINAL = "original"
_QUALITY = 88
_WIDEST = 3  # a picture is at most this many times as wide as it is high
_WORTH_PROCESSES = 1000  # images that take as long as starting processes does


@dataclass(frozen=True, kw_only=True)
class GalleryPart:
    """Consecutive rows to draw: `maps` is column -> (n, h, w), `limits` column -> the ends of its colour scale."""

    number: int
    rows: list[ImageRow]
    maps: Mapping[str, Float32Array]
    limits: Mapping[str, Range | None]


def make_parts(shown: GalleryRows) -> Iterator[GalleryPart]:
    """The rows of a gallery with their maps, 100 at a time."""
    for first in range(0, shown.images, PART):
        maps = {column: values[first : first + PART] for column, values in shown.maps.items()}
        rows = rows_of(shown.table.slice(first, PART))
        yield GalleryPart(number=first // PART, rows=rows, maps=maps, limits=shown.limits)


def picture_name(number: int, column: str) -> str:
    """The path, below thumbs/, of a row's picture: made of numbers and a column's name, never of a key."""
    return f"{number // PART:04d}/{number:06d}.{column}.jpg"


def script_name(part: int) -> str:
    """The path, below maps/, of the script with a part's maps."""
    return f"{part:04d}.js"


def thumbnail(image: Picture, height: int) -> Picture:
    """(H, W, 3) -> (height, ..., 3), in proportion; what would be wider than 3 heights becomes lower."""
    return sized(image, fitting((image.shape[0], image.shape[1]), height, _WIDEST))


@dataclass(frozen=True, kw_only=True)
class GalleryPainter:
    """Draws parts of a gallery into the folder `output`, in any process."""

    output: Path
    style: GalleryStyle
    sources: dict[str, Source]

    def draw(self, part: GalleryPart) -> list[Path]:
        """Writes the pictures of some rows, and the script with their maps; returns the paths.

        Raises UserError naming the shard that is not as it was mined.
        """
        for folder in (self.output / "thumbs" / f"{part.number:04d}", self.output / "maps"):
            with naming(folder):
                folder.mkdir(parents=True, exist_ok=True)
        written = [self._write(f"maps/{script_name(part.number)}", maps_script(part))]
        with SourceImages(self.sources) as images:
            for position, (row, data) in enumerate(zip(part.rows, images.read(part.rows), strict=True)):
                image = decode_row(self.sources[row["shard"]], row, data)
                for column, picture in self._pictures(image, part, position).items():
                    name = picture_name(part.number * PART + position, column)
                    written.append(self._write(f"thumbs/{name}", _jpeg(picture)))
        return written

    def _pictures(self, image: Picture, part: GalleryPart, position: int) -> dict[str, Picture]:
        """Column -> the picture with that map, and the picture without a map."""
        style = self.style
        thumb = thumbnail(image, style.thumb_height)
        overlays = {
            column: self.style.looks.overlay(
                thumb, maps[position], part.limits[column], self.style.placement_of(column)
            )
            for column, maps in part.maps.items()
        }
        return {ORIGINAL: thumb, **overlays}

    def _write(self, name: str, content: bytes) -> Path:
        """Writes a file in place: nobody sees it before the page, which comes last."""
        path = self.output / name
        with naming(path):
            path.write_bytes(content)
        return path


def draw_gallery(painter: GalleryPainter, shown: GalleryRows, workers: int) -> set[Path]:
    """Draws all rows, in several processes where that is worth their start; returns what was written."""
    written: set[Path] = set()
    workers = workers if shown.images >= _WORTH_PROCESSES else 1
    with LongTask("drawing", shown.images, "image") as task:
        for part, paths in in_processes(painter.draw, make_parts(shown), workers):
            written.update(paths)
            task.advance(len(part.rows))
    return written


def maps_script(part: GalleryPart) -> bytes:
    """The script of a part's maps: column -> base64 of (n, h, w) bytes, 0 to 255 over the colour scale."""
    coded = {}
    for column, maps in part.maps.items():
        levels = [np.rint(255 * scale_map(map, part.limits[column])).astype(np.uint8) for map in maps]
        coded[column] = base64.b64encode(np.stack(levels).tobytes()).decode()
    return f"window.galleryMaps({part.number}, {script_json(coded)});\n".encode()


def script_json(value: object) -> str:
    """JSON that may stand in a script, whatever the strings hold: ASCII only, and no `<`, so no `</script>`."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _jpeg(picture: Picture) -> bytes:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
