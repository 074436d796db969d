"""A canvas for polygons that keeps, for every pixel, the part of the body that it shows; and shapes to draw on it.

A figure is designed in units of its own height: x to the right of its axis, y from 0 (crown) to 1 (soles).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from jobs.arrays import Float64Array, Int32Array, Int64Array, UInt8Array

IMAGE_SIZE = (128, 64)  # (height, width) of Market-1501's images
SUPERSAMPLE = 4  # samples of a pixel in each direction
PARTS = ("background", "head", "torso", "legs", "bag")  # by label
BACKGROUND, HEAD, TORSO, LEGS, BAG = range(5)

_SHIFT = 4  # fractional bits of a polygon's coordinates
CIRCLE = [(math.cos(t), math.sin(t)) for t in np.linspace(0, 2 * math.pi, 20, endpoint=False).tolist()]

Colour = tuple[int, int, int]
Point = tuple[float, float]
Pixels = UInt8Array


@dataclass(frozen=True)
class Cloth:
    """A material: an RGB colour, and a second one for the patterns "stripes", "checks" and "logo"."""

    colour: Colour
    pattern: str = "plain"
    second: Colour = (0, 0, 0)

    def shaded(self, factor: float) -> Cloth:
        """The same material in weaker or stronger light."""
        return replace(self, colour=shaded(self.colour, factor), second=shaded(self.second, factor))


@dataclass(frozen=True, kw_only=True)
class FigurePlace:
    """Where a figure stands, in image pixels: x of its axis, y of its soles, its height."""

    x: float
    feet: float
    height: float


def shaded(colour: Colour, factor: float) -> Colour:
    """An RGB colour made darker or lighter."""
    r, g, b = colour
    return min(255, round(r * factor)), min(255, round(g * factor)), min(255, round(b * factor))


class Canvas:
    """RGB and the body part's label at four times the image's resolution. Coordinates are image pixels."""

    def __init__(self, size: tuple[int, int] = IMAGE_SIZE) -> None:
        height, width = size
        self._pixels: Pixels = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE, 4), np.uint8)
        self._words = self._pixels.view(np.uint32)[:, :, 0]  # a sample as one number is several times as fast to fill

    def image(self) -> Pixels:
        """(H, W, 3) uint8 RGB, each pixel the mean of its 4x4 samples."""
        height, width = self._pixels.shape[:2]
        # In two steps, since OpenCV is fast at halving.
        half = cv2.resize(self._pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        whole = cv2.resize(half, (width // SUPERSAMPLE, height // SUPERSAMPLE), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(whole[:, :, :3], np.uint8)

    def labels(self) -> Pixels:
        """(H, W) uint8: the part at each pixel's centre; labels cannot be averaged."""
        half = SUPERSAMPLE // 2
        return np.ascontiguousarray(self._pixels[half::SUPERSAMPLE, half::SUPERSAMPLE, 3])

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fills an upright rectangle, which is background."""
        rows = slice(max(0, round(top * SUPERSAMPLE)), max(0, round(bottom * SUPERSAMPLE)))
        columns = slice(max(0, round(left * SUPERSAMPLE)), max(0, round(right * SUPERSAMPLE)))
        self._words[rows, columns] = _word(colour, BACKGROUND)

    def polygon(
        self,
        points: Sequence[Point] | Float64Array,
        cloth: Cloth | Colour,
        part: int = BACKGROUND,
        origin: Point = (0, 0),
        cell: float = 4.0,
    ) -> None:
        """Fills a polygon. The cells of a pattern are `cell` pixels wide and begin at `origin`."""
        corners = np.rint(np.asarray(points) * (SUPERSAMPLE << _SHIFT)).astype(np.int32)
        if isinstance(cloth, tuple):
            cv2.fillPoly(self._pixels, [corners], (*cloth, part), cv2.LINE_8, _SHIFT)
        elif cloth.pattern not in ("stripes", "checks"):
            cv2.fillPoly(self._pixels, [corners], (*cloth.colour, part), cv2.LINE_8, _SHIFT)
        else:
            self._patterned(corners, cloth, part, origin, cell)

    def _patterned(self, corners: Int32Array, cloth: Cloth, part: int, origin: Point, cell: float) -> None:
        height, width = self._pixels.shape[:2]
        left, top = np.maximum(corners.min(0) >> _SHIFT, 0).tolist()
        right, bottom = np.minimum((corners.max(0) >> _SHIFT) + 1, (width, height)).tolist()
        if left >= right or top >= bottom:
            return
        inside = np.zeros((bottom - top, right - left), np.uint8)
        moved = corners - np.array([left << _SHIFT, top << _SHIFT], np.int32)
        cv2.fillPoly(inside, [moved], 1, cv2.LINE_8, _SHIFT)
        index = _cells(top, bottom, origin[1], cell)[:, None]
        if cloth.pattern == "checks":
            index = index ^ _cells(left, right, origin[0], cell)[None, :]
        colours = np.array([_word(cloth.colour, part), _word(cloth.second, part)])
        np.copyto(self._words[top:bottom, left:right], colours[index], where=inside.view(bool))


def _word(colour: Colour, part: int) -> np.uint32:
    """The four channels of a sample as one number in this machine's byte order."""
    word: np.uint32 = np.uint32(int.from_bytes((*colour, part), sys.byteorder))
    return word


def _cells(start: int, stop: int, origin: float, cell: float) -> Int64Array:
    """0 or 1 for each sample from `start` to `stop`, alternating every `cell` pixels from `origin`."""
    cells: Int64Array = np.floor((np.arange(start, stop) / SUPERSAMPLE - origin) / cell).astype(np.int64)
    return cells & 1


def ellipse(x: float, y: float, rx: float, ry: float) -> list[Point]:
    """A polygon around an ellipse."""
    return [(x + rx * c, y + ry * s) for c, s in CIRCLE]


def box(x: float, y: float, half_width: float, half_height: float) -> list[Point]:
    """A rectangle with cut corners around its centre."""
    a, b, c = half_width, half_height, 0.25 * min(half_width, half_height)
    corners = [(-a, c - b), (c - a, -b), (a - c, -b), (a, c - b), (a, b - c), (a - c, b), (c - a, b), (-a, b - c)]
    return [(x + dx, y + dy) for dx, dy in corners]


def limb(start: Point, stop: Point, r0: float, r1: float) -> list[Point]:
    """A tapered capsule from `start` (radius r0) to `stop` (radius r1)."""
    angle = math.atan2(stop[1] - start[1], stop[0] - start[0])
    turns = [math.pi * k / 5 for k in range(6)]
    front = [(stop[0] + r1 * math.sin(angle + t), stop[1] - r1 * math.cos(angle + t)) for t in turns]
    rear = [(start[0] - r0 * math.sin(angle + t), start[1] + r0 * math.cos(angle + t)) for t in turns]
    return front + rear


def along(start: Point, length: float, angle: float) -> Point:
    """The point at `length` from `start`, `angle` radians forward (to the right) of straight down."""
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)


def between(start: Point, stop: Point, share: float) -> Point:
    """The point that lies `share` of the way from `start` to `stop`."""
    return start[0] + share * (stop[0] - start[0]), start[1] + share * (stop[1] - start[1])


class Pen:
    """Draws in the units of a figure. A figure that faces left is the mirror image of one that faces right."""

    def __init__(self, canvas: Canvas, place: FigurePlace, mirrored: bool, labelled: bool = True) -> None:
        self._canvas, self._labelled = canvas, labelled
        top = place.feet - place.height
        self._scale = np.array((-place.height if mirrored else place.height, place.height))
        self._shift = np.array((place.x, top))
        self._cell = 0.044 * place.height
        self._origin = (place.x - self._cell / 2, top)  # a cell of checks on the axis

    def fill(self, points: Sequence[Point], cloth: Cloth | Colour, part: int) -> None:
        """Fills a polygon given in the figure's units."""
        label = part if self._labelled else BACKGROUND
        self._canvas.polygon(np.asarray(points) * self._scale + self._shift, cloth, label, self._origin, self._cell)
