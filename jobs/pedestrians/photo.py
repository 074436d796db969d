"""One image of the data set: its scene drawn, photographed and encoded.

Each image depends on the seed, its identity, its camera and its number alone, so it can be drawn without the others.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from jobs.pedestrians.camera import Camera, make_camera
from jobs.pedestrians.canvas import Pixels
from jobs.pedestrians.crowd import Shot
from jobs.pedestrians.looks import choose_look, looks
from jobs.pedestrians.scene import Scene, choose_bad_place, choose_place, choose_pose, draw_scene, take_picture

_JPEG_QUALITY = 90
_PNG_COMPRESSION = 6
_CAMERA, _SHOT = 1, 2  # streams of random numbers; looks have 0


@dataclass(frozen=True)
class Photo:
    """An image as JPEG, and its mask as PNG: one channel of labels, see `jobs.pedestrians.canvas.PARTS`."""

    jpeg: bytes
    mask: bytes


def take(shot: Shot, seed: int) -> Photo:
    """Draws one image and encodes it: the same bytes for the same shot and seed."""
    scene, image = draw(shot, seed)
    return Photo(
        _encoded(".jpg", image[:, :, ::-1], cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY),
        _encoded(".png", scene.labels, cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION),
    )


def draw(shot: Shot, seed: int) -> tuple[Scene, Pixels]:
    """The scene, labels included, and the picture that its camera takes of it: (128, 64, 3) uint8 RGB."""
    p = shot.parsed
    rng = np.random.default_rng((seed, _SHOT, p.pid + 1, p.camid, shot.number))  # seeds are not negative, junk is -1
    camera = camera_of(seed, p.camid)
    place = choose_bad_place(rng) if p.pid < 0 else choose_place(camera, rng)
    look = None if shot.who is None else looks(seed, shot.who + 1)[shot.who]
    bystanders = [choose_look(rng) for _ in range(int(rng.random() < 0.25))]
    scene = draw_scene(camera, look, choose_pose(camera.views, rng), place, bystanders, rng)
    return scene, take_picture(scene, camera, rng)


@functools.lru_cache(maxsize=256)
def camera_of(seed: int, camid: int) -> Camera:
    """The camera of a 0-based id."""
    return make_camera(np.random.default_rng((seed, _CAMERA, camid)), camid)


def _encoded(suffix: str, image: Pixels, option: int, value: int) -> bytes:
    done, data = cv2.imencode(suffix, image, [option, value])
    assert done, suffix
    return data.tobytes()
