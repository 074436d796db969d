"""The people of a data set: looks drawn from a seed, of which any two differ in several traits."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

import numpy as np

from jobs.pedestrians.canvas import Cloth, shaded
from jobs.pedestrians.figure import Look
from jobs.pedestrians.materials import CLOTHES, HAIRS, SKINS, choose_cloth, pick

# Repeated as often as they are likely.
_BAGS = ("none",) * 3 + ("backpack",) * 3 + ("shoulder",) * 2 + ("handbag",) * 2
_HATS = ("none",) * 7 + ("cap",) * 2 + ("brimmed",)
_LOWER_KINDS = ("trousers",) * 3 + ("shorts", "skirt")
_LOOK = 0  # the stream of random numbers; cameras have 1, shots 2
_DISTINCT = 2  # any two identities differ in at least this many traits
_GROWING = threading.Lock()


def looks(seed: int, count: int) -> Sequence[Look]:
    """The first looks of a seed, at least `count` of them. Any two differ in two traits or more."""
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
    """Looks, their traits and the generator of the next ones: looks do not depend on how many are wanted."""
    return [], [], np.random.default_rng((seed, _LOOK))


def traits_of(look: Look) -> tuple[object, ...]:
    """What most views show. Hair, skin and build are not counted, since a camera blurs them."""
    return look.upper.colour, look.upper.pattern, look.lower.colour, look.lower_kind, (look.bag, look.bag_colour)


def choose_look(rng: np.random.Generator) -> Look:
    """A person of any look."""
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
