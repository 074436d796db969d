"""Cameras: what all images of one of them share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.pedestrians.canvas import Colour

VIEWS = ("front", "back", "left", "right")

_WALLS: tuple[Colour, ...] = ((168, 158, 146), (150, 110, 92), (186, 190, 194), (120, 134, 140), (198, 186, 158))
_WALL_KINDS = ("bricks", "windows", "panels", "plain", "hedge")
_GROUNDS: tuple[Colour, ...] = ((142, 140, 138), (110, 108, 110), (172, 164, 150), (118, 134, 92), (154, 138, 126))
_GROUND_KINDS = ("slabs", "plain", "crossing")


@dataclass(frozen=True, kw_only=True)
class Camera:
    """What all images of one camera share."""

    wall: Colour
    wall_kind: str
    ground: Colour
    ground_kind: str
    horizon: float  # y of the line where the ground begins, as a share of the image's height
    views: tuple[float, ...]  # probabilities of VIEWS
    smallest: float  # least height of a person, as a share of the image's; the greatest is 0.18 more, at most 0.98
    gains: tuple[float, float, float]  # of red, green and blue: exposure and colour cast
    gamma: float
    blur: float  # sigma in pixels
    noise: float  # sigma in grey levels
    hidden: float  # probability of something in front


def make_camera(rng: np.random.Generator, number: int) -> Camera:
    """A camera; cameras with neighbouring numbers differ in wall and ground."""
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
