"""Where the boxes of a picture of arrows stand: in layers, so that every arrow points down, with few crossings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Arrow = tuple[str, str]
# An arrow that passes a layer has a bend there, which takes its place among the boxes: (arrow, layer).
Bend = tuple[Arrow, int]
Item = str | Bend
_SWEEPS = 24


@dataclass(frozen=True, kw_only=True)
class Spacing:
    """Sizes in pixels: the room that a box and a bend take in their layer, and the distance between layers."""

    box: float
    bend: float
    layer: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Centres of the boxes, and the points of each arrow from the centre of its source to that of its target."""

    boxes: dict[str, tuple[float, float]]
    arrows: dict[Arrow, list[tuple[float, float]]]


def plan_of(uses: Mapping[str, set[str]], spacing: Spacing) -> Plan:
    """A plan for names without cycles; `uses` has a key for every name. x starts at 0 and y grows downwards from 0."""
    heights = heights_of(uses)
    top = max(heights.values())
    chains = {(a, b): _chain((a, b), heights) for a in sorted(uses) for b in sorted(uses[a])}
    links = [link for chain in chains.values() for link in itertools.pairwise(chain)]
    layers: list[list[Item]] = [[] for _ in range(top + 1)]
    for name in sorted(uses):
        layers[top - heights[name]].append(name)
    for chain in chains.values():
        for bend in chain[1:-1]:
            layers[top - int(bend[1])].append(bend)
    layers = _with_few_crossings(layers, links)
    across = _positions(layers, links, spacing)
    down = {item: number * spacing.layer for number, layer in enumerate(layers) for item in layer}
    points = {item: (across[item], down[item]) for item in down}
    return Plan(
        boxes={name: points[name] for name in uses},
        arrows={arrow: [points[item] for item in chain] for arrow, chain in chains.items()},
    )


def heights_of(uses: Mapping[str, set[str]]) -> dict[str, int]:
    """Each name's longest way down; 0 for those that use nothing."""

    def height(name: str) -> int:
        return max((height(used) + 1 for used in uses[name]), default=0)

    return {name: height(name) for name in uses}


def implied(uses: Mapping[str, set[str]]) -> set[Arrow]:
    """The arrows whose target is also reached by a longer way."""

    def below(name: str) -> set[str]:
        return uses[name] | {other for used in uses[name] for other in below(used)}

    return {(a, b) for a in uses for b in uses[a] if any(b in below(other) for other in uses[a] - {b})}


def _chain(arrow: Arrow, heights: Mapping[str, int]) -> list[Item]:
    """The source, a bend in every layer between, the target."""
    source, target = arrow
    bends: list[Item] = [(arrow, height) for height in range(heights[source] - 1, heights[target], -1)]
    return [source, *bends, target]


def _with_few_crossings(layers: Sequence[Sequence[Item]], links: Sequence[tuple[Item, Item]]) -> list[list[Item]]:
    """The best order seen while each layer is sorted by where its neighbours above, then below, stand."""
    best = current = [list(layer) for layer in layers]
    for sweep in range(_SWEEPS):
        current = [list(layer) for layer in current]
        downwards = sweep % 2 == 0
        order = range(1, len(current)) if downwards else range(len(current) - 2, -1, -1)
        for number in order:
            place = {item: n for n, item in enumerate(current[number - 1 if downwards else number + 1])}
            means = {item: _mean(item, links, place) for item in current[number]}
            current[number].sort(key=lambda item, means=means: (means[item], str(item)))  # type: ignore[misc]
        if _crossings(current, links) < _crossings(best, links):
            best = current
    return best


def _mean(item: Item, links: Sequence[tuple[Item, Item]], place: Mapping[Item, float]) -> float:
    """The mean place of an item's neighbours among those given; -1 without any."""
    near = [place[other] for link in links if item in link for other in link if other in place and other != item]
    return sum(near) / len(near) if near else -1


def _crossings(layers: Sequence[Sequence[Item]], links: Sequence[tuple[Item, Item]]) -> int:
    place = {item: (number, n) for number, layer in enumerate(layers) for n, item in enumerate(layer)}
    spans = [(place[a], place[b]) for a, b in links]
    return sum((a[1] - c[1]) * (b[1] - d[1]) < 0 for (a, b), (c, d) in itertools.combinations(spans, 2) if a[0] == c[0])


def _positions(
    layers: Sequence[Sequence[Item]], links: Sequence[tuple[Item, Item]], spacing: Spacing
) -> dict[Item, float]:
    """x of every item: drawn towards its neighbours, in the layer's order, and never closer than its size allows."""
    size = {item: spacing.box if isinstance(item, str) else spacing.bend for layer in layers for item in layer}
    width = max(sum(size[item] for item in layer) for layer in layers)
    across: dict[Item, float] = {}
    for layer in layers:
        share = width / sum(size[item] for item in layer)
        ends = itertools.accumulate(size[item] * share for item in layer)
        across |= {item: end - size[item] * share / 2 for item, end in zip(layer, ends, strict=True)}
    for _ in range(_SWEEPS):
        for layer in layers:
            wanted = [(across[item] + _mean(item, links, across)) / 2 for item in layer]
            across |= dict(zip(layer, _apart(wanted, [size[item] for item in layer], width), strict=True))
    return across


def _apart(wanted: Sequence[float], sizes: Sequence[float], width: float) -> list[float]:
    """The wanted places, moved right and then left until neighbours do not overlap between 0 and `width`."""
    places = list(wanted)
    start = 0.0
    for n, size in enumerate(sizes):
        places[n] = max(places[n], start + size / 2)
        start = places[n] + size / 2
    end = width
    for n in reversed(range(len(sizes))):
        places[n] = min(places[n], end - sizes[n] / 2)
        end = places[n] - sizes[n] / 2
    return places
