"""The figures of `promptsg localise`: the fixed maps, scores with intervals, parts, and failed queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jobs.arrays import Float64Array, FloatArray
from jobs.figures import PALETTE
from jobs.phrases import counted
from jobs.statistics.localisation.findings import Localisation, LocaliseFindings, PartLocalisation
from jobs.statistics.localisation.queries import QueriesLook
from jobs.statistics.report.with_interval import WithInterval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "on_person": "share of the mass on the person",
    "ratio": "this share / the person's share of the area",
    "pointing": "highest patch on the person",
    "auc": "AUC of person against background",
}
_CHANCE = {"ratio": 1.0, "auc": 0.5}
FIGURES = ("fixed_maps", "scores", "parts", "queries")  # the names that figures can have
_GROUPS, _PARTS, _LINES = len(PALETTE), 12, 24  # shown


def draw_figures(found: LocaliseFindings) -> dict[str, Figure]:
    """File name without ending -> figure."""
    made = {"fixed_maps": fixed_maps_figure(found), "scores": scores_figure(found)}
    if found.parts:
        made["parts"] = parts_figure(found)
    if found.queries:
        made["queries"] = queries_figure(found.queries)
    return made


def fixed_maps_figure(found: LocaliseFindings) -> Figure:
    """The mean mask, and the average of each map beside it, each on its own scale from 0."""
    panels: list[tuple[str, Float64Array]] = []
    for mean in found.means:
        panels.append(("mean mask\n(the fixed prior)", mean.prior))
        panels += [(f"average of\n{name}", average) for name, average in mean.averages.items()]
    return _map_panels(panels[:_LINES])


def scores_figure(found: LocaliseFindings) -> Figure:
    """A panel for each measure: maps, the prior and averages, a colour for each group, with intervals."""
    from matplotlib.figure import Figure

    groups = _largest(found)
    names = list(dict.fromkeys(one.name for one in found.scores))[:_LINES]
    figure = Figure(figsize=(11, 1.4 + 0.34 * len(names) * max(1, 0.6 * len(groups))))
    figure.set_layout_engine("constrained")
    for axis, (measure, title) in zip(figure.subplots(1, 4, sharey=True), TITLES.items(), strict=True):
        for place, g in enumerate(groups):
            lines = {one.name: one for one in found.of_group(g)}
            shift = 0.6 * (place - (len(groups) - 1) / 2) / max(1, len(groups))
            estimates = [_of(lines[name], measure) for name in names]
            label = found.labels[g].replace("$", r"\$") if measure == "on_person" and found.question.by else None
            _draw_estimates(axis, estimates, np.arange(len(names)) + shift, PALETTE[place], label)
        if measure in _CHANCE:
            axis.axvline(_CHANCE[measure], color="0.6", linewidth=0.8, linestyle="--")
        axis.set_xlabel(title, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(axis="x", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
    axis.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    axis.invert_yaxis()
    if found.question.by:
        figure.legend(loc="outside lower center", fontsize=8, ncols=4, frameon=False)
    figure.suptitle(f"How the maps lie on the persons of {counted(found.images, 'image')}", fontsize=10)
    return figure


def parts_figure(found: LocaliseFindings) -> Figure:
    """Of each part, its share of the area and of each map's mass, over the images that show it; the largest group."""
    from matplotlib.figure import Figure

    largest = max(range(found.groups.num_rows), key=lambda g: sum(one.images for one in found.of_group(g)))
    shown = [one for one in found.parts if one.group == largest]
    parts = sorted({one.part for one in shown}, key=lambda part: -_area(shown, part))[:_PARTS]
    figure = Figure(figsize=(7, 1.6 + 0.5 * len(parts)))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    maps = found.question.maps[: len(PALETTE) - 1]
    areas = [100 * _area(shown, part) for part in parts]
    axis.barh(np.arange(len(parts)), areas, height=0.85, color="0.85", label="share of the area")
    for place, name in enumerate(maps):
        lines = {one.part: one for one in shown if one.map == name}
        estimates = [lines[part].on if part in lines else WithInterval(value=None) for part in parts]
        shift = 0.6 * (place - (len(maps) - 1) / 2) / max(1, len(maps))
        _draw_estimates(axis, estimates, np.arange(len(parts)) + shift, PALETTE[place], name, percent=True)
    axis.set_yticks(range(len(parts)), parts)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("% of the image (bars) and of the map's mass (points: mean and 95 % interval)", fontsize=8)
    axis.set_title(f"Parts of the person{_group_of(found, largest)}", fontsize=10)
    figure.legend(loc="outside lower center", fontsize=8, ncols=3, frameon=False)
    return figure


def queries_figure(looks: Sequence[QueriesLook]) -> Figure:
    """The share of mass on the person of queries whose first match is right, and of those where it is wrong."""
    from matplotlib.figure import Figure

    shown = [one for one in looks if one.measure == "on_person"][:_LINES]
    figure = Figure(figsize=(7, 1.8 + 0.45 * len(shown)))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    for kind, shift, colour in (("right", -0.12, PALETTE[0]), ("wrong", 0.12, PALETTE[1])):
        label = f"first match {kind} ({counted(getattr(shown[0], f'queries_{kind}'), 'query', 'queries')})"
        estimates = [getattr(one, kind) for one in shown]
        _draw_estimates(axis, estimates, np.arange(len(shown)) + shift, colour, label)
    axis.set_yticks(range(len(shown)), [one.map.replace("$", r"\$") for one in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlabel("share of the map's mass on the person (bars: 95 % interval over identities)", fontsize=8)
    axis.set_title("Do failures look at the background?", fontsize=10)
    axis.grid(axis="x", color="0.9", linewidth=0.6)
    figure.legend(loc="outside lower center", fontsize=8, ncols=2, frameon=False)
    return figure


def _map_panels(panels: Sequence[tuple[str, Float64Array]]) -> Figure:
    """Maps side by side, each from 0 to its own maximum."""
    from matplotlib.figure import Figure

    columns = min(6, len(panels))
    lines = -(-len(panels) // columns)
    h, w = panels[0][1].shape
    figure = Figure(figsize=(max(4.2, 1.7 * columns + 0.6), lines * (1.4 * h / w + 0.7) + 0.4))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, values) in zip(axes, panels, strict=False):
        image = axis.imshow(values, cmap="viridis", vmin=0, aspect="equal")
        axis.set_title(title.replace("$", r"\$"), fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
        figure.colorbar(image, ax=axis, shrink=0.7).ax.tick_params(labelsize=6)
    return figure


def _draw_estimates(
    axis: Axes,
    estimates: Sequence[WithInterval],
    places: FloatArray,
    colour: str,
    label: str | None,
    *,
    percent: bool = False,
) -> None:
    """Points with intervals at heights (n,)."""
    scale = 100 if percent else 1
    value, low, high = (
        scale * np.array([np.nan if number is None else number for number in numbers])
        for numbers in zip(*((one.value, one.low, one.high) for one in estimates), strict=True)
    )
    # Percentile intervals of a skewed mean need not hold the mean itself.
    errors = np.nan_to_num(np.clip([value - low, high - value], 0, None))
    axis.errorbar(
        value, places, xerr=errors, fmt="o", color=colour, markersize=4, capsize=2, linewidth=1.2, label=label
    )


def _largest(found: LocaliseFindings) -> list[int]:
    """The groups with the most images, in their order."""
    images = [max((one.images for one in found.of_group(g)), default=0) for g in range(found.groups.num_rows)]
    order = sorted(range(len(images)), key=lambda g: -images[g])[:_GROUPS]
    return sorted(g for g in order if images[g])


def _of(one: Localisation, measure: str) -> WithInterval:
    estimate: WithInterval = getattr(one, measure)
    return estimate


def _area(parts: Sequence[PartLocalisation], part: str) -> float:
    return max((one.area.value or 0 for one in parts if one.part == part), default=0)


def _group_of(found: LocaliseFindings, group: int) -> str:
    return f", {found.labels[group]}".replace("$", r"\$") if found.question.by else ""
