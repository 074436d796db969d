"""The pictures and map scripts of a gallery: their names, drawing them, and what an earlier gallery left (no torch)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cam.overlay import Picture, Range
    from jobs.shards.random_access import SourceImages

PART = 100  # rows per folder of pictures and per script of maps: folders stay listable, a script loads at once
ORIGINAL = "original"
_PICTURE = re.compile(r"\d{4,}/\d{6,}\.[a-z0-9_]+\.jpg")
_SCRIPT = re.compile(r"\d{4,}\.js")
_QUALITY = 88
_WIDEST = 3  # a picture is at most this many times as wide as it is high
_WORTH_PROCESSES = 1000  # images that take as long as starting processes does


@dataclass(frozen=True, kw_only=True)
class Style:
    """How pictures are drawn; `thumb_height` in pixels."""

    maps: tuple[str, ...]
    colormap: str
    alpha: float
    scale: str
    thumb_height: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows to draw: `maps` is column -> (n, h, w), `limits` column -> the colour scale's ends."""

    number: int
    rows: list[dict[str, Any]]
    maps: dict[str, NDArray[np.float32]]
    limits: dict[str, Range | None]


def picture_name(number: int, column: str) -> str:
    """The path, below thumbs/, of a row's picture: made of numbers and a column's name, never of a key."""
    return f"{number // PART:04d}/{number:06d}.{column}.jpg"


def make_parts(
    rows: list[dict[str, Any]], maps: dict[str, NDArray[np.float32]], limits: dict[str, Range | None]
) -> Iterator[Part]:
    """Metadata rows in parts of 100, with column -> (N, h, w) maps of the same rows and the colour scale's ends."""
    for first in range(0, len(rows), PART):
        here = {column: values[first : first + PART] for column, values in maps.items()}
        yield Part(number=first // PART, rows=rows[first : first + PART], maps=here, limits=limits)


def draw_all(parts: Iterator[Part], output: Path, style: Style, images: SourceImages, workers: int) -> Iterator[Path]:
    """Draws all parts, in several processes where that is worth their start; yields what was written."""
    import multiprocessing

    from tqdm import tqdm

    todo = list(parts)
    count = sum(len(part.rows) for part in todo)
    with tqdm(total=count, unit=" images", dynamic_ncols=True, disable=None) as bar:
        if workers == 1 or count < _WORTH_PROCESSES:
            with images:
                for part in todo:
                    yield from draw_part(part, output, style, images)
                    bar.update(len(part.rows))
            return
        # Not forked: threads of Arrow and DuckDB are running.
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            drawn: dict[Future[list[Path]], Part] = {
                pool.submit(_draw_in_process, part, output, style, images): part for part in todo
            }
            try:
                for future in as_completed(drawn):
                    yield from future.result()
                    bar.update(len(drawn[future].rows))
            except BrokenProcessPool as error:
                raise UserError("a drawing process was killed (is memory short?); try fewer --workers") from error
            finally:
                pool.shutdown(cancel_futures=True)


def _draw_in_process(part: Part, output: Path, style: Style, images: SourceImages) -> list[Path]:
    import cv2

    cv2.setNumThreads(1)
    with images:
        return draw_part(part, output, style, images)


def draw_part(part: Part, output: Path, style: Style, images: SourceImages) -> list[Path]:
    """Writes the pictures of some rows, and the script with their maps; returns the paths."""
    import cv2

    from cam.overlay import overlay_heatmap

    thumbs = output / "thumbs"
    (thumbs / f"{part.number:04d}").mkdir(parents=True, exist_ok=True)
    (output / "maps").mkdir(exist_ok=True)
    written = [write_maps_script(part, output)]
    for position, image in enumerate(_decoded(images, part.rows)):
        thumb = thumbnail(image, style.thumb_height)
        pictures = {ORIGINAL: thumb}
        for column, maps in part.maps.items():
            pictures[column] = overlay_heatmap(
                thumb, maps[position], alpha=style.alpha, colormap=style.colormap, limits=part.limits[column]
            )
        for column, picture in pictures.items():
            path = thumbs / picture_name(part.number * PART + position, column)
            bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
            written.append(_write(path, cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()))
    return written


def _decoded(images: SourceImages, rows: list[dict[str, Any]]) -> Iterator[Picture]:
    """The rows' images, upright RGB (H, W, 3). Raises UserError naming the shard that is not as it was mined."""
    from jobs.rendering.drawing import decode
    from jobs.shards.random_access import IMAGE_ERRORS, check_header

    for row, data in zip(rows, images.read(rows), strict=True):
        source = images.sources[row["shard"]]
        try:
            yield decode(data, check_header(source, row, data))
        except IMAGE_ERRORS as error:
            raise UserError(f"the image {row['key']!r} in {source.url} does not decode: {error}") from error


def thumbnail(image: Picture, height: int) -> Picture:
    """(H, W, 3) -> (height, ..., 3), in proportion; what would be wider than 3 heights becomes lower."""
    from jobs.rendering.drawing import sized

    return sized(image, (max(1, min(height, round(_WIDEST * height * image.shape[0] / image.shape[1]))), None))


def write_maps_script(part: Part, output: Path) -> Path:
    """Writes maps/<part>.js: column -> base64 of (n, h, w) bytes, 0 to 255 over the colour scale."""
    import numpy as np

    from cam.overlay import scale_map

    coded = {}
    for column, maps in part.maps.items():
        levels = [np.rint(255 * scale_map(map, part.limits[column])).astype(np.uint8) for map in maps]
        coded[column] = base64.b64encode(np.stack(levels).tobytes()).decode()
    path = output / "maps" / f"{part.number:04d}.js"
    return _write(path, f"window.galleryMaps({part.number}, {script_json(coded)});\n".encode())


def script_json(value: Any) -> str:
    """JSON that may stand in a script, whatever the strings hold: ASCII only, and no `<`, so no `</script>`."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _write(path: Path, content: bytes) -> Path:
    try:
        path.write_bytes(content)
    except OSError as error:  # a full disk's error does not say where
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def withdraw_page(output: Path) -> Iterator[Path]:
    """Makes the folder, takes away its page, and yields the pictures and scripts that an earlier gallery left."""
    from jobs.atomic import make_folder, remove_leftovers

    make_folder(output)
    (output / "index.html").unlink(missing_ok=True)
    remove_leftovers(output)
    for folder, pattern in (("thumbs", _PICTURE), ("maps", _SCRIPT)):
        root = output / folder
        for path in root.rglob("*"):
            if path.is_file() and pattern.fullmatch(path.relative_to(root).as_posix()):
                yield path
