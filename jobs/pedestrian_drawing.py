"""Draws one person from polygons, on a canvas that keeps for every pixel the part of the body that it shows.

A figure is designed in units of its own height: x to the right of its axis, y from 0 (crown) to 1 (soles).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = (128, 64)  # (height, width), as Market-1501 has them
SUPERSAMPLE = 4
PARTS = ("background", "head", "torso", "legs", "bag")  # by label
BACKGROUND, HEAD, TORSO, LEGS, BAG = range(5)

_SHIFT = 4  # fractional bits of a polygon's coordinates
_CIRCLE = [(math.cos(t), math.sin(t)) for t in np.linspace(0, 2 * math.pi, 20, endpoint=False).tolist()]

Colour = tuple[int, int, int]
Point = tuple[float, float]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Cloth:
    """A material: RGB colour, and for "stripes", "checks" and "logo" a second one."""

    colour: Colour
    pattern: str = "plain"
    second: Colour = (0, 0, 0)

    def shaded(self, factor: float) -> Cloth:
        """The same material in weaker or stronger light."""
        return replace(self, colour=shaded(self.colour, factor), second=shaded(self.second, factor))


@dataclass(frozen=True, kw_only=True)
class Look:
    """What makes an identity: it stays the same on every camera. `width` is 1 on average, `hip` the hips' y."""

    upper: Cloth
    lower: Cloth
    lower_kind: str  # trousers, shorts, skirt
    long_sleeves: bool
    bag: str  # none, backpack, shoulder, handbag
    bag_colour: Colour
    hat: str  # none, cap, brimmed
    hat_colour: Colour
    hair: Colour
    long_hair: bool
    skin: Colour
    shoes: Colour
    width: float
    hip: float


@dataclass(frozen=True, kw_only=True)
class Pose:
    """View "front", "back", "left" or "right" (where the figure faces); `stride` in [-1, 1]; `arms` in radians."""

    view: str
    stride: float
    arms: float


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a figure stands, in image pixels: its axis, its soles, its height."""

    x: float
    feet: float
    height: float


def shaded(colour: Colour, factor: float) -> Colour:
    """An RGB colour made darker or lighter."""
    r, g, b = colour
    return min(255, round(r * factor)), min(255, round(g * factor)), min(255, round(b * factor))


class Canvas:
    """Four channels at four times the image's resolution: RGB and the body part's label. Coordinates: image pixels."""

    def __init__(self, size: tuple[int, int] = IMAGE_SIZE) -> None:
        height, width = size
        self._pixels: Pixels = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE, 4), np.uint8)
        self._words = self._pixels.view(np.uint32)[:, :, 0]  # a sample in one piece: several times as fast to fill

    def image(self) -> Pixels:
        """(H, W, 3) uint8 RGB, each pixel the mean of its 4x4 samples."""
        height, width = self._pixels.shape[:2]
        # In two steps, as OpenCV has a fast path for halving.
        half = cv2.resize(self._pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        whole = cv2.resize(half, (width // SUPERSAMPLE, height // SUPERSAMPLE), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(whole[:, :, :3], np.uint8)

    def labels(self) -> Pixels:
        """(H, W) uint8: the part at each pixel's centre, which no averaging of labels could tell."""
        half = SUPERSAMPLE // 2
        return np.ascontiguousarray(self._pixels[half::SUPERSAMPLE, half::SUPERSAMPLE, 3])

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fills an upright rectangle of background."""
        rows = slice(max(0, round(top * SUPERSAMPLE)), max(0, round(bottom * SUPERSAMPLE)))
        columns = slice(max(0, round(left * SUPERSAMPLE)), max(0, round(right * SUPERSAMPLE)))
        self._words[rows, columns] = _word(colour, BACKGROUND)

    def polygon(
        self,
        points: Sequence[Point] | NDArray[np.float64],
        cloth: Cloth | Colour,
        part: int = BACKGROUND,
        origin: Point = (0, 0),
        cell: float = 4.0,
    ) -> None:
        """Fills a polygon; a pattern's cells are `cell` pixels wide and counted from `origin`."""
        corners = np.rint(np.asarray(points) * (SUPERSAMPLE << _SHIFT)).astype(np.int32)
        if isinstance(cloth, tuple):
            cv2.fillPoly(self._pixels, [corners], (*cloth, part), cv2.LINE_8, _SHIFT)
        elif cloth.pattern not in ("stripes", "checks"):
            cv2.fillPoly(self._pixels, [corners], (*cloth.colour, part), cv2.LINE_8, _SHIFT)
        else:
            self._patterned(corners, cloth, part, origin, cell)

    def _patterned(self, corners: NDArray[np.int32], cloth: Cloth, part: int, origin: Point, cell: float) -> None:
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
    """The four channels of a sample as one number, in this machine's byte order."""
    return np.uint32(int.from_bytes((*colour, part), sys.byteorder))


def _cells(start: int, stop: int, origin: float, cell: float) -> NDArray[np.int64]:
    """0 or 1 for each sample from `start` to `stop`, alternating every `cell` pixels."""
    return np.floor((np.arange(start, stop) / SUPERSAMPLE - origin) / cell).astype(np.int64) & 1


def ellipse(x: float, y: float, rx: float, ry: float) -> list[Point]:
    """A polygon around an ellipse."""
    return [(x + rx * c, y + ry * s) for c, s in _CIRCLE]


def box(x: float, y: float, half_width: float, half_height: float) -> list[Point]:
    """A rectangle with its corners cut, around its centre."""
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
    """Draws in the units of a figure; one that faces left is the mirror image of one that faces right."""

    def __init__(self, canvas: Canvas, place: Place, mirrored: bool, labelled: bool = True) -> None:
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


def draw_person(canvas: Canvas, look: Look, pose: Pose, place: Place, labelled: bool = True) -> None:
    """Draws a person; without `labelled` the mask takes it for background, as it should take a bystander."""
    _Figure(Pen(canvas, place, pose.view == "left", labelled), look, pose).draw()


class _Figure:
    """One person, painted from the far side to the near one."""

    def __init__(self, pen: Pen, look: Look, pose: Pose) -> None:
        self._fill, self._look, self._pose = pen.fill, look, pose
        self._side = pose.view in ("left", "right")
        self._back = pose.view == "back"
        # A bag is carried on the left of the body: seen from behind that is the left of the image, and a figure
        # that faces right hides it.
        self._bag_side = -1.0 if self._back else 1.0
        self._bag_is_near = pose.view != "right"

    def draw(self) -> None:
        if self._side:
            self._arm_from_the_side(near=False)
            self._backpack_from_the_side()
        elif self._look.bag == "backpack" and not self._back:
            for sign in (-1, 1):
                self._fill(box(sign * 0.095 * self._look.width, 0.31, 0.03, 0.1), self._bag(0.8), BAG)
        self._legs()
        self._torso()
        self._head()
        self._worn_bag()
        if self._side:
            self._arm_from_the_side(near=True)
        else:
            self._arms_from_the_front()
        if self._back and self._look.bag == "backpack":
            self._fill(box(0, 0.31, 0.085 * self._look.width, 0.115), self._bag(), BAG)
            self._fill(box(0, 0.36, 0.06 * self._look.width, 0.045), self._bag(0.78), BAG)

    def _bag(self, light: float = 1.0) -> Colour:
        return shaded(self._look.bag_colour, light)

    def _legs(self) -> None:
        w, s, hip = self._look.width, self._pose.stride, self._look.hip
        knee_y = (hip + 0.96) / 2
        if self._side:
            for sign, light in ((-1, 0.78), (1, 1.0)):
                foot = (0.15 * s * sign, 0.965 - 0.025 * (s * sign < 0) * abs(s))
                self._leg((0, hip), (0.075 * s * sign + 0.022, knee_y), foot, light)
        else:
            for sign in (-1, 1):
                lift = 0.045 * max(0.0, s * sign)
                self._leg(
                    (sign * 0.045 * w, hip),
                    (sign * (0.048 * w + 0.006), knee_y - 0.3 * lift),
                    (sign * (0.045 * w + 0.012), 0.965 - lift),
                    0.92 if sign * s > 0 else 1.0,
                )
        if self._look.lower_kind == "skirt":
            top, flare = 0.07 * w, 0.1 * w + 0.04 * abs(s) * self._side
            points = [(-top, hip - 0.04), (top, hip - 0.04), (flare, knee_y + 0.01), (-flare, knee_y + 0.01)]
            self._fill(points, self._look.lower, LEGS)

    def _leg(self, hip: Point, knee: Point, foot: Point, light: float) -> None:
        look, w = self._look, self._look.width
        toe = 0.022 if self._side else 0.0
        self._fill(ellipse(foot[0] + toe, 0.015 + foot[1], 0.042 if self._side else 0.03, 0.02), look.shoes, LEGS)
        cloth = look.lower.shaded(light)
        if look.lower_kind == "trousers":
            self._fill(limb(knee, foot, 0.04 * w, 0.031 * w), cloth, LEGS)
            self._fill(limb(hip, knee, 0.053 * w, 0.041 * w), cloth, LEGS)
            return
        skin = shaded(look.skin, 0.95 * light)
        self._fill(limb(knee, foot, 0.031 * w, 0.021 * w), skin, LEGS)
        self._fill(limb(hip, knee, 0.042 * w, 0.031 * w), skin, LEGS)
        if look.lower_kind == "shorts":
            self._fill(limb(hip, between(hip, knee, 0.85), 0.056 * w, 0.05 * w), cloth, LEGS)

    def _torso(self) -> None:
        look, w, hem = self._look, self._look.width, self._look.hip + 0.03
        if self._side:
            outline = [(0.03, 0.155), (0.058, 0.2), (0.07, 0.28), (0.06, hem - 0.1), (0.066, hem)]
            outline += [(-0.066, hem), (-0.056, hem - 0.1), (-0.072, 0.26), (-0.058, 0.19), (-0.03, 0.155)]
        else:
            right = [(0.036, 0.152), (0.102, 0.185), (0.094, 0.27), (0.078, hem - 0.11), (0.088, hem)]
            outline = right + [(-x, y) for x, y in reversed(right)]
        self._fill([(x * w, y) for x, y in outline], look.upper, TORSO)
        if look.upper.pattern == "logo":
            x, half = (0.03, 0.028) if self._side else (0.0, 0.06)
            self._fill(box(x * w, 0.275, half * w, 0.048), look.upper.second, TORSO)

    def _arms_from_the_front(self) -> None:
        w = self._look.width
        for sign in (-1, 1):
            swing = 0.12 + self._pose.arms * (1 if sign * self._pose.stride > 0 else 0.4)
            shoulder = (sign * 0.093 * w, 0.207)
            elbow = along(shoulder, 0.15, sign * swing)
            hand = along(elbow, 0.14, sign * (swing - 0.22))
            self._arm(shoulder, elbow, hand, 0.84)
            if self._look.bag == "handbag" and sign == self._bag_side:
                self._handbag(hand)

    def _arm_from_the_side(self, near: bool) -> None:
        swing = self._pose.stride * (0.2 + self._pose.arms) * (-1 if near else 1)
        shoulder = (-0.006, 0.207)
        elbow = along(shoulder, 0.15, swing - 0.08)
        hand = along(elbow, 0.14, swing + 0.3)
        if self._look.bag == "handbag" and near == self._bag_is_near:
            self._handbag(hand)
        self._arm(shoulder, elbow, hand, 0.84 if near else 0.68)

    def _arm(self, shoulder: Point, elbow: Point, hand: Point, light: float) -> None:
        look, r = self._look, 0.033 * self._look.width
        cloth, skin = look.upper.shaded(light), shaded(look.skin, light + 0.08)
        self._fill(ellipse(*along(hand, 0.012, 0), 0.021, 0.024), skin, TORSO)
        if look.long_sleeves:
            self._fill(limb(elbow, hand, 0.85 * r, 0.7 * r), cloth, TORSO)
            self._fill(limb(shoulder, elbow, r, 0.85 * r), cloth, TORSO)
        else:
            self._fill(limb(elbow, hand, 0.7 * r, 0.52 * r), skin, TORSO)
            self._fill(limb(shoulder, elbow, 0.8 * r, 0.7 * r), skin, TORSO)
            self._fill(limb(shoulder, between(shoulder, elbow, 0.6), r, r), cloth, TORSO)

    def _head(self) -> None:
        look = self._look
        self._fill(limb((0, 0.12), (0.004, 0.165), 0.027, 0.03), shaded(look.skin, 0.85), HEAD)
        if look.long_hair:
            x, bottom = (-0.02 if self._side else 0.0), (0.235 if self._back else 0.195)
            half = 0.045 if self._side else 0.062
            hair = [
                (x - half, 0.06),
                (x + half, 0.06),
                (x + half, bottom - 0.02),
                (x, bottom),
                (x - half, bottom - 0.02),
            ]
            self._fill(hair, shaded(look.hair, 0.9), HEAD)
        self._fill(ellipse(-0.008 * self._side, 0.067, 0.057, 0.066), look.hair, HEAD)
        if self._side:
            self._fill(ellipse(0.018, 0.086, 0.036, 0.053), look.skin, HEAD)
            self._fill([(0.048, 0.075), (0.066, 0.098), (0.048, 0.103)], look.skin, HEAD)
            self._fill(box(0.034, 0.078, 0.008, 0.007), (64, 50, 44), HEAD)
        elif not self._back:
            self._fill(ellipse(0, 0.086, 0.045, 0.054), look.skin, HEAD)
            for x in (-0.018, 0.018):
                self._fill(box(x, 0.08, 0.0065, 0.005), (64, 50, 44), HEAD)
            self._fill(box(0, 0.115, 0.015, 0.005), shaded(look.skin, 0.6), HEAD)
        self._hat()

    def _hat(self) -> None:
        look = self._look
        if look.hat == "none":
            return
        crown = [(0.063 * c, 0.05 + 0.06 * s) for c, s in _CIRCLE if s <= 1e-9]
        self._fill(crown, look.hat_colour, HEAD)
        brim = shaded(look.hat_colour, 0.75)
        if look.hat == "brimmed":
            self._fill(ellipse(0, 0.05, 0.105, 0.014), brim, HEAD)
        elif not self._back:
            x = 0.06 if self._side else 0.0
            self._fill(ellipse(x, 0.048, 0.05, 0.01), brim, HEAD)

    def _worn_bag(self) -> None:
        """Straps, and a bag that hangs from the shoulder at the hip."""
        w, hip, side = self._look.width, self._look.hip, self._bag_side
        if self._look.bag == "backpack" and not self._side and not self._back:
            for sign in (-1, 1):
                self._fill(limb((sign * 0.06 * w, 0.178), (sign * 0.068 * w, 0.37), 0.013, 0.013), self._bag(), BAG)
        if self._look.bag != "shoulder":
            return
        if not self._side:
            self._fill(limb((-0.06 * side * w, 0.172), (0.09 * side * w, hip - 0.02), 0.01, 0.01), self._bag(), BAG)
            self._fill(box(0.105 * side * w, hip + 0.02, 0.055, 0.06), self._bag(), BAG)
            self._fill(box(0.105 * side * w, hip, 0.055, 0.025), self._bag(0.78), BAG)
        elif self._bag_is_near:
            self._fill(limb((0.01, 0.165), (-0.01, hip - 0.02), 0.01, 0.01), self._bag(), BAG)
            self._fill(box(-0.012, hip + 0.02, 0.07, 0.06), self._bag(), BAG)
            self._fill(box(-0.012, hip, 0.07, 0.025), self._bag(0.78), BAG)

    def _backpack_from_the_side(self) -> None:
        if self._look.bag == "backpack":
            self._fill(box(-0.098 * self._look.width, 0.305, 0.052, 0.11), self._bag(), BAG)
            self._fill(box(-0.12 * self._look.width, 0.35, 0.03, 0.04), self._bag(0.78), BAG)

    def _handbag(self, hand: Point) -> None:
        x, y = hand
        self._fill(
            [(x - 0.03, y + 0.06), (x, y), (x + 0.03, y + 0.06), (x + 0.018, y + 0.06), (x, y + 0.02)],
            self._bag(0.7),
            BAG,
        )
        self._fill(box(x, y + 0.095, 0.056, 0.045), self._bag(), BAG)
