"""What a street camera sees: a person at a place, clutter, things in front, light, blur and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from jobs.arrays import Float32Array
from jobs.pedestrians.backdrop import HEIGHT, WIDTH, draw_clutter, draw_ground, draw_in_front, draw_wall
from jobs.pedestrians.camera import VIEWS, Camera
from jobs.pedestrians.canvas import Canvas, FigurePlace, Pixels
from jobs.pedestrians.figure import Look, Pose, draw_person


@dataclass(frozen=True)
class Scene:
    """An image (H, W, 3) uint8 RGB, and the part of the body that each pixel shows (H, W) uint8."""

    image: Pixels
    labels: Pixels


def choose_place(camera: Camera, rng: np.random.Generator) -> FigurePlace:
    """Where a person stands: at any size and not always in the middle, so that no fixed mask fits all images."""
    height = float(rng.uniform(camera.smallest, min(0.98, camera.smallest + 0.18)))
    feet = float(rng.uniform(height + 0.01, 0.995))
    return FigurePlace(x=WIDTH * float(rng.uniform(0.33, 0.67)), feet=HEIGHT * feet, height=HEIGHT * height)


def choose_bad_place(rng: np.random.Generator) -> FigurePlace:
    """The place in a wrong box of a detector: far too close, and beside the person."""
    height = float(rng.uniform(1.3, 2.0))
    x = float(rng.choice((-0.05, 1.05)) + rng.uniform(-0.1, 0.1))
    return FigurePlace(x=WIDTH * x, feet=HEIGHT * float(rng.uniform(1.0, 1.15) * height * 0.85), height=HEIGHT * height)


def choose_pose(views: Sequence[float], rng: np.random.Generator) -> Pose:
    """How a person walks, seen from one of VIEWS, drawn with these probabilities."""
    view = VIEWS[int(np.searchsorted(np.cumsum(views)[:-1], rng.random()))]
    stride, arms = rng.uniform((-1, 0), (1, 0.35)).tolist()
    return Pose(view=view, stride=stride, arms=arms)


def draw_scene(
    camera: Camera,
    look: Look | None,
    pose: Pose,
    place: FigurePlace,
    bystanders: Sequence[Look],
    rng: np.random.Generator,
) -> Scene:
    """What stands in front of a camera, before its lens and sensor change it. Without a look, nobody does."""
    canvas = Canvas()
    draw_wall(canvas, camera, rng)
    draw_ground(canvas, camera, rng)
    draw_clutter(canvas, camera, rng)
    for bystander in bystanders:
        edge = float(rng.choice((-0.04, 1.04)) + rng.uniform(-0.08, 0.08)) * WIDTH
        height = float(rng.uniform(0.5, 0.95)) * HEIGHT
        where = FigurePlace(x=edge, feet=min(1.1 * HEIGHT, height + float(rng.uniform(0, 0.5)) * HEIGHT), height=height)
        draw_person(canvas, bystander, choose_pose((0.25,) * 4, rng), where, labelled=False)
    if look is not None:
        draw_person(canvas, look, pose, place)
        if rng.random() < camera.hidden:
            draw_in_front(canvas, place, rng)
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
    seen: Pixels = np.clip(lit + noise, 0, 255).astype(np.uint8)
    return seen


def _roundness(labels: Pixels) -> Float32Array:
    """Shading (H, W) that makes a flat figure look round: darker towards its outline, 1 in the background."""
    depth = cv2.distanceTransform((labels > 0).astype(np.uint8), cv2.DIST_L2, 3)
    return np.where(labels > 0, 0.72 + 0.07 * np.minimum(depth, 4.5), 1).astype(np.float32)
