"""Puts a person into what a street camera sees: a place, clutter, things in front, light, blur and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from jobs.pedestrians.canvas import IMAGE_SIZE, Canvas, Cloth, Colour, Pixels, Place, Point, box, ellipse, limb, shaded
from jobs.pedestrians.figure import Look, Pose, draw_person

HEIGHT, WIDTH = IMAGE_SIZE

# Posters, cars and passers-by wear what people wear, so that a colour alone tells nothing about the person.
CLOTHES: tuple[Colour, ...] = (
    (34, 34, 38), (232, 232, 228), (130, 132, 136), (192, 42, 46), (44, 78, 176), (30, 38, 84), (42, 132, 70),
    (230, 194, 56), (226, 122, 40), (228, 140, 170), (114, 62, 150), (112, 76, 48), (34, 144, 146), (208, 190, 152),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((238, 204, 178), (222, 176, 142), (176, 124, 88), (108, 72, 50))
HAIRS: tuple[Colour, ...] = ((26, 22, 22), (74, 48, 32), (122, 82, 48), (204, 172, 110), (158, 156, 154))
_PATTERNS = ("plain", "plain", "plain", "stripes", "checks", "logo")
VIEWS = ("front", "back", "left", "right")

_WALLS: tuple[Colour, ...] = ((168, 158, 146), (150, 110, 92), (186, 190, 194), (120, 134, 140), (198, 186, 158))
_WALL_KINDS = ("bricks", "windows", "panels", "plain", "hedge")
_GROUNDS: tuple[Colour, ...] = ((142, 140, 138), (110, 108, 110), (172, 164, 150), (118, 134, 92), (154, 138, 126))
_GROUND_KINDS = ("slabs", "plain", "crossing")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Camera:
    """What all images of one camera share."""

    wall: Colour
    wall_kind: str
    ground: Colour
    ground_kind: str
    horizon: float  # y of the line where the ground begins, as a share of the image's height
    views: tuple[float, ...]  # probabilities of VIEWS
    smallest: float  # least height of a person, as a share of the image's; the greatest is 0.18 more, or 0.98
    gains: tuple[float, float, float]  # of red, green and blue: exposure and colour cast
    gamma: float
    blur: float  # sigma in pixels
    noise: float  # sigma in grey levels
    hidden: float  # probability of something in front


@dataclass(frozen=True)
class Scene:
    """An image (H, W, 3) uint8 RGB, and the part that each pixel shows (H, W) uint8."""

    image: Pixels
    labels: Pixels


def make_camera(rng: np.random.Generator, number: int) -> Camera:
    """A camera; ones with neighbouring numbers differ in place and ground."""
    exposure, views = rng.uniform(0.85, 1.12), rng.dirichlet((1.5, 1.5, 1.0, 1.0)) * 0.8 + 0.05
    red, green, blue = (exposure * rng.uniform(0.93, 1.07, 3)).tolist()
    return Camera(
        wall=_WALLS[(number + int(rng.integers(2))) % len(_WALLS)],
        wall_kind=_WALL_KINDS[number % len(_WALL_KINDS)],
        ground=_GROUNDS[number % len(_GROUNDS)],
        ground_kind=_GROUND_KINDS[number % len(_GROUND_KINDS)],
        horizon=float(rng.uniform(0.35, 0.65)),
        views=tuple((views / views.sum()).tolist()),
        smallest=0.74 + 0.08 * (number * 2 % 5) / 4,
        gains=(red, green, blue),
        gamma=float(rng.uniform(0.85, 1.2)),
        blur=float(rng.uniform(0.2, 0.75)),
        noise=float(rng.uniform(2, 5)),
        hidden=float(rng.uniform(0.05, 0.2)),
    )


def choose_place(camera: Camera, rng: np.random.Generator) -> Place:
    """Where a person stands: off centre and at any size, so that no fixed mask describes all images."""
    height = float(rng.uniform(camera.smallest, min(0.98, camera.smallest + 0.18)))
    feet = float(rng.uniform(height + 0.01, 0.995))
    return Place(x=WIDTH * float(rng.uniform(0.33, 0.67)), feet=HEIGHT * feet, height=HEIGHT * height)


def choose_bad_place(rng: np.random.Generator) -> Place:
    """A box that a detector got wrong: far too close, and beside the person."""
    height = float(rng.uniform(1.3, 2.0))
    x = float(rng.choice((-0.05, 1.05)) + rng.uniform(-0.1, 0.1))
    return Place(x=WIDTH * x, feet=HEIGHT * float(rng.uniform(1.0, 1.15) * height * 0.85), height=HEIGHT * height)


def choose_pose(views: Sequence[float], rng: np.random.Generator) -> Pose:
    """How a person walks, seen from a direction drawn with the probabilities of VIEWS."""
    view = VIEWS[int(np.searchsorted(np.cumsum(views)[:-1], rng.random()))]
    stride, arms = rng.uniform((-1, 0), (1, 0.35)).tolist()
    return Pose(view=view, stride=stride, arms=arms)


def draw_scene(
    camera: Camera, look: Look | None, pose: Pose, place: Place, bystanders: Sequence[Look], rng: np.random.Generator
) -> Scene:
    """What stands before a camera, before its lens and sensor spoil it; without a look, nobody does."""
    canvas = Canvas()
    _draw_wall(canvas, camera, rng)
    _draw_ground(canvas, camera, rng)
    _draw_clutter(canvas, camera, rng)
    for bystander in bystanders:
        edge = float(rng.choice((-0.04, 1.04)) + rng.uniform(-0.08, 0.08)) * WIDTH
        height = float(rng.uniform(0.5, 0.95)) * HEIGHT
        where = Place(x=edge, feet=min(1.1 * HEIGHT, height + float(rng.uniform(0, 0.5)) * HEIGHT), height=height)
        draw_person(canvas, bystander, choose_pose((0.25,) * 4, rng), where, labelled=False)
    if look is not None:
        draw_person(canvas, look, pose, place)
        if rng.random() < camera.hidden:
            _draw_in_front(canvas, place, rng)
    return Scene(canvas.image(), canvas.labels())


def take_picture(scene: Scene, camera: Camera, rng: np.random.Generator) -> Pixels:
    """(H, W, 3) uint8 RGB: the scene in this camera's light, through its lens, on its sensor."""
    light = cv2.resize(
        rng.uniform(0.88, 1.1, (4, 2)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR
    )
    grain = cv2.resize(rng.uniform(0.93, 1.07, (32, 16)).astype(np.float32), (WIDTH, HEIGHT))
    light = light * grain * _roundness(scene.labels)
    gains = np.array(camera.gains, np.float32) * rng.uniform(0.92, 1.08)
    linear = scene.image * (light[:, :, None] * (gains / 255))
    lit = 255 * cv2.pow(np.minimum(linear, 1.1), camera.gamma)
    blur = camera.blur + float(rng.uniform(0, 0.3))
    lit = cv2.GaussianBlur(lit, (5, 5), blur)
    noise = np.float32(camera.noise) * rng.standard_normal(lit.shape, np.float32)
    return np.clip(lit + noise, 0, 255).astype(np.uint8)


def _roundness(labels: Pixels) -> NDArray[np.float32]:
    """Shading (H, W) that makes a flat figure look round: darker towards its outline, 1 in the background."""
    depth = cv2.distanceTransform((labels > 0).astype(np.uint8), cv2.DIST_L2, 3)
    return np.where(labels > 0, 0.72 + 0.07 * np.minimum(depth, 4.5), 1).astype(np.float32)


def pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of the values, each as likely as the others."""
    return values[int(rng.integers(len(values)))]


def _draw_wall(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    bottom, shift = camera.horizon * HEIGHT, float(rng.uniform(0, 16))
    canvas.rectangle(0, 0, WIDTH, bottom, camera.wall)
    dark, bright = shaded(camera.wall, 0.8), shaded(camera.wall, 1.15)
    if camera.wall_kind == "bricks":
        for row, y in enumerate(np.arange(-shift % 6 - 6, bottom, 6).tolist()):
            canvas.rectangle(0, y, WIDTH, y + 0.7, dark)
            for x in np.arange(-shift - 6 * (row % 2), WIDTH, 12).tolist():
                canvas.rectangle(x, y, x + 0.7, min(y + 6, bottom), dark)
    elif camera.wall_kind == "windows":
        for x in np.arange(-shift, WIDTH, 22).tolist():
            for y in np.arange(-shift, bottom - 18, 26).tolist():
                canvas.rectangle(x, y, x + 14, y + 18, bright)
                canvas.rectangle(x + 1.5, y + 1.5, x + 12.5, y + 16.5, (72, 84, 98))
                canvas.rectangle(x + 6.5, y + 1.5, x + 7.5, y + 16.5, bright)
    elif camera.wall_kind == "panels":
        for number, x in enumerate(np.arange(-shift, WIDTH, 8).tolist()):
            canvas.rectangle(x, 0, x + 8, bottom, bright if number % 2 else camera.wall)
            canvas.rectangle(x, 0, x + 0.8, bottom, dark)
    elif camera.wall_kind == "hedge":
        for x, y, r in rng.uniform((0, 0, 3), (WIDTH, bottom, 7), (14, 3)).tolist():
            green = shaded((78, 112, 62), float(rng.uniform(0.7, 1.3)))
            canvas.polygon(ellipse(x, y, r, min(0.8 * r, max(1, bottom - y))), green)


def _draw_ground(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    top, shift = camera.horizon * HEIGHT, float(rng.uniform(-20, 20))
    canvas.rectangle(0, top, WIDTH, HEIGHT, camera.ground)
    dark, bright = shaded(camera.ground, 0.82), shaded(camera.ground, 1.35)
    depth = HEIGHT - top
    if camera.ground_kind == "slabs":
        for share in (0.08, 0.2, 0.36, 0.56, 0.8):
            canvas.rectangle(0, top + share * depth, WIDTH, top + share * depth + 0.8, dark)
        for x in np.arange(-120, WIDTH + 120, 24).tolist():
            foot = x + shift
            far = WIDTH / 2 + (foot - WIDTH / 2) * 0.35
            canvas.polygon([(far, top), (far + 0.4, top), (foot + 1, HEIGHT), (foot, HEIGHT)], dark)
    elif camera.ground_kind == "crossing":
        for x in np.arange(-90, WIDTH + 90, 30).tolist():
            foot = x + shift
            far = WIDTH / 2 + (foot - WIDTH / 2) * 0.5
            canvas.polygon([(far, top + 8), (far + 7, top + 8), (foot + 14, HEIGHT), (foot, HEIGHT)], bright)
    canvas.rectangle(0, top, WIDTH, top + 1.5, dark)


def _draw_clutter(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    """Posters, jackets with or without somebody in them, and pairs of legs, in the colours and patterns of clothes."""
    for _ in range(int(rng.integers(3, 6))):
        x, y, w, h = rng.uniform((0, 0, 0.06, 0.05), (WIDTH, HEIGHT, 0.2, 0.15)).tolist()
        w, h = w * WIDTH, h * HEIGHT
        cloth = choose_cloth(rng).shaded(float(rng.uniform(0.75, 1.15)))
        kind = rng.random()
        cell = float(rng.uniform(2.5, 5))
        if kind < 0.45:
            canvas.polygon(_poster(x, y, w, h), cloth, origin=(x, y), cell=cell)
            if cloth.pattern == "logo":
                canvas.polygon(box(x, y, 0.5 * w, 0.5 * h), cloth.second)
        elif kind < 0.8:
            if kind < 0.6:
                canvas.polygon(ellipse(x, y - h - 3, 4.6, 5.4), pick(rng, HAIRS))
                canvas.polygon(ellipse(x, y - h - 2, 3.6, 4.2), pick(rng, SKINS))
            torso = [(x - 0.9 * w, y - h), (x + 0.9 * w, y - h), (x + 0.7 * w, y + h), (x - 0.7 * w, y + h)]
            canvas.polygon(torso, cloth, origin=(x, y), cell=cell)
            for sign in (-1, 1):
                sleeve = limb((x + sign * 0.9 * w, y - 0.8 * h), (x + sign * 1.2 * w, y + 0.6 * h), 0.25 * w, 0.2 * w)
                canvas.polygon(sleeve, cloth.shaded(0.84), origin=(x, y), cell=cell)
        else:
            for sign in (-1, 1):
                canvas.polygon(limb((x + sign * 3, y - 2 * h), (x + sign * 3.5, y + h), 2.8, 2.2), cloth, origin=(x, y))


def _poster(x: float, y: float, w: float, h: float) -> list[Point]:
    return [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]


def choose_cloth(rng: np.random.Generator) -> Cloth:
    """A material of any colour and pattern."""
    first, step, pattern = rng.integers((0, 1, 0), (len(CLOTHES), len(CLOTHES), len(_PATTERNS))).tolist()
    return Cloth(CLOTHES[first], _PATTERNS[pattern], CLOTHES[(first + step) % len(CLOTHES)])


def _draw_in_front(canvas: Canvas, place: Place, rng: np.random.Generator) -> None:
    """A pole, a box or a car that hides a part of the person, never most of it."""
    kind, colour = rng.random(), shaded(pick(rng, CLOTHES), float(rng.uniform(0.8, 1.1)))
    x = place.x + float(rng.uniform(-0.1, 0.1)) * place.height
    if kind < 0.4:
        half = float(rng.uniform(1.2, 2.6))
        canvas.rectangle(x - half, 0, x + half, HEIGHT, (96, 98, 100))
        canvas.rectangle(x - half, 0, x - 0.4 * half, HEIGHT, (138, 140, 142))
        if rng.random() < 0.4:
            y = float(rng.uniform(0, 0.3)) * HEIGHT
            canvas.polygon(box(x, y, 5, 6), colour)
        return
    top = place.feet - float(rng.uniform(0.12, 0.3)) * place.height
    if kind < 0.75:
        half = float(rng.uniform(6, 12))
        canvas.rectangle(x - half, top, x + half, place.feet + 4, colour)
        canvas.rectangle(x - half, top, x + half, top + 2, shaded(colour, 1.25))
        canvas.rectangle(x - 0.5, top + 2, x + 0.5, place.feet + 4, shaded(colour, 0.75))
    else:
        _draw_car(canvas, x, top, place.feet + 5, 1 if rng.random() < 0.5 else -1, colour)


def _draw_car(canvas: Canvas, x: float, top: float, bottom: float, sign: int, colour: Colour) -> None:
    """A car that comes into the image from one side as far as `x`."""
    tall = bottom - top
    body = [(0, 0.5), (4, 0.42), (14, 0.36), (24, 0.0), (60, 0.0), (100, 0.0), (100, 0.85), (0, 0.85)]
    glass = [(17, 0.36), (25, 0.07), (40, 0.07), (40, 0.36)]
    for points, paint in ((body, colour), (glass, (70, 86, 100))):
        canvas.polygon([(x + sign * dx, top + dy * tall) for dx, dy in points], paint)
    canvas.polygon(ellipse(x + sign * 14, bottom - 0.18 * tall, 5, 0.2 * tall), (30, 30, 32))
    canvas.polygon(ellipse(x + sign * 14, bottom - 0.18 * tall, 2.2, 0.09 * tall), (150, 150, 152))
