"""Materials that people and things are made of: colours of clothes, skin and hair, patterns, and draws of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from jobs.pedestrians.canvas import Cloth, Colour

# Posters, cars and passers-by have the colours of clothes, so that a colour alone says nothing about the person.
CLOTHES: tuple[Colour, ...] = (
    (34, 34, 38), (232, 232, 228), (130, 132, 136), (192, 42, 46), (44, 78, 176), (30, 38, 84), (42, 132, 70),
    (230, 194, 56), (226, 122, 40), (228, 140, 170), (114, 62, 150), (112, 76, 48), (34, 144, 146), (208, 190, 152),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((238, 204, 178), (222, 176, 142), (176, 124, 88), (108, 72, 50))
HAIRS: tuple[Colour, ...] = ((26, 22, 22), (74, 48, 32), (122, 82, 48), (204, 172, 110), (158, 156, 154))
_PATTERNS = ("plain", "plain", "plain", "stripes", "checks", "logo")

T = TypeVar("T")


def pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of the values, each as likely as the others."""
    return values[int(rng.integers(len(values)))]


def choose_cloth(rng: np.random.Generator) -> Cloth:
    """A material of any colour and pattern."""
    first, step, pattern = rng.integers((0, 1, 0), (len(CLOTHES), len(CLOTHES), len(_PATTERNS))).tolist()
    return Cloth(CLOTHES[first], _PATTERNS[pattern], CLOTHES[(first + step) % len(CLOTHES)])
