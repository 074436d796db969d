"""The people of a dataset: looks drawn from a seed, any two of them told apart by several traits."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

import numpy as np

from jobs.pedestrians.canvas import Cloth, shaded
from jobs.pedestrians.figure import Look
from jobs.pedestrians.scene import (
    CLOTHES,
    HAIRS,
    SKINS,
    choose_cloth,
    pick,
)

# Repeated as often as they are likely.
_BAGS = ("none",) * 3 + ("backpack",) * 3 + ("shoulder",) * 2 + ("handbag",) * 2
_HATS = ("none",) * 7 + ("cap",) * 2 + ("brimmed",)
_LOWER_KINDS = ("trousers",) * 3 + ("shorts", "skirt")
_LOOK = 0  # the stream of random numbers; cameras have 1, shots 2
_DISTINCT = 2  # traits in which any two identities differ, at least
_GROWING = threading.Lock()


def looks(seed: int, count: int) -> Sequence[Look]:
    """The first looks of a seed, at least `count`: any two differ in two traits or more, whatever they share."""
    with _GROWING:
        known, traits, rng = _known_looks(seed)
        while len(known) < count:
            look = choose_look(rng)
            own = traits_of(look)
            if all(sum(a != b for a, b in zip(own, other, strict=True)) >= _DISTINCT for other in traits):
                known.append(look)
                traits.append(own)
    return known


@functools.lru_cache(maxsize=8)
def _known_looks(seed: int) -> tuple[list[Look], list[tuple[object, ...]], np.random.Generator]:
    """A list that only grows, in the order of its own generator: looks do not depend on how many are asked for."""
    return [], [], np.random.default_rng((seed, _LOOK))


def traits_of(look: Look) -> tuple[object, ...]:
    """What most views tell. Hair, skin and build are not counted: a camera blurs them."""
    return look.upper.colour, look.upper.pattern, look.lower.colour, look.lower_kind, (look.bag, look.bag_colour)


def choose_look(rng: np.random.Generator) -> Look:
    """Any person at all."""
    lower, bag = choose_cloth(rng), pick(rng, _BAGS)
    patterned = lower.pattern in ("stripes", "checks") and rng.random() < 0.5
    bag_colour = pick(rng, CLOTHES)
    width, hip, sleeves, hair = rng.uniform((0.85, 0.485, 0, 0), (1.2, 0.535, 1, 1)).tolist()
    return Look(
        upper=choose_cloth(rng),
        lower=lower if patterned else Cloth(lower.colour),
        lower_kind=pick(rng, _LOWER_KINDS),
        long_sleeves=sleeves < 0.5,
        bag=bag,
        bag_colour=bag_colour if bag != "none" else (0, 0, 0),
        hat=pick(rng, _HATS),
        hat_colour=pick(rng, CLOTHES),
        hair=pick(rng, HAIRS),
        long_hair=hair < 0.4,
        skin=pick(rng, SKINS),
        shoes=shaded(pick(rng, CLOTHES), 0.8),
        width=width,
        hip=hip,
    )
