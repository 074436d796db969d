"""What surrounds a person: wall, ground, clutter behind, and things in front."""

from __future__ import annotations

import numpy as np

from jobs.pedestrians.camera import Camera
from jobs.pedestrians.canvas import IMAGE_SIZE, Canvas, Colour, FigurePlace, Point, box, ellipse, limb, shaded
from jobs.pedestrians.materials import CLOTHES, HAIRS, SKINS, choose_cloth, pick

HEIGHT, WIDTH = IMAGE_SIZE


def draw_wall(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    """The wall of a camera, from the top to its horizon."""
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


def draw_ground(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    """The ground of a camera, from its horizon down."""
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


def draw_clutter(canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
    """Posters, jackets with and without somebody in them, and pairs of legs, in the colours and patterns of clothes."""
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


def draw_in_front(canvas: Canvas, place: FigurePlace, rng: np.random.Generator) -> None:
    """A pole, a box or a car that hides a part of the person, but never most of it."""
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
