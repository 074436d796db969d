"""The figures of `promptsg stats --by prompt`: mean maps, stripes, agreement, attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cam.measures import STRIPES
from jobs.arrays import Float64Array
from jobs.figures import PALETTE
from jobs.statistics.prompts.findings import PromptFindings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = ("mean_maps", "stripes", "agreement", "attributes")  # the names that figures can have
_COLUMNS = 9
_MOST = 54  # prompts


def draw_figures(found: PromptFindings) -> dict[str, Figure]:
    """File name without ending -> figure."""
    made = {}
    if any(one.images for one in found.prompts):
        made = {"mean_maps": mean_maps_figure(found), "stripes": stripes_figure(found)}
    if found.agreement:
        made["agreement"] = agreement_figure(found)
    if found.attributes:
        made["attributes"] = attributes_figure(found)
    return made


def mean_maps_figure(found: PromptFindings) -> Figure:
    """The mean map of each prompt, on one colour scale."""
    from matplotlib.figure import Figure

    shown = [one for one in found.prompts if one.images][:_MOST]
    columns = min(_COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    h, w = shown[0].mean.shape
    figure = Figure(figsize=(max(4.2, 1.2 * columns + 1), lines * (1.1 * h / w + 0.35) + 0.5))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    highest = max(float(one.mean.max()) for one in shown) * 100
    for axis in axes.ravel()[len(shown) :]:
        axis.set_visible(False)
    for axis, one in zip(axes.ravel(), shown, strict=False):
        image = axis.imshow(one.mean * 100, cmap="viridis", vmin=0, vmax=highest, aspect="equal")
        axis.set_title(one.prompt, fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("mean share of the map's mass per patch, %", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def stripes_figure(found: PromptFindings) -> Figure:
    """The share of the mass in six stripes, a row for each prompt."""
    from matplotlib.figure import Figure

    shown = [one for one in found.prompts if one.images][:_MOST]
    values = np.array([[100 * (stripe.value or 0) for stripe in one.stripes] for one in shown])
    figure = Figure(figsize=(6.4, 1.4 + 0.27 * len(shown)))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    _draw_table(figure, axis, values, "share of the map's mass, %", "viridis", (0.0, float(values.max())))
    axis.set_yticks(range(len(shown)), [one.prompt for one in shown], fontsize=8)
    axis.set_xticks(range(STRIPES), ["1 (top)", *map(str, range(2, STRIPES)), f"{STRIPES} (bottom)"], fontsize=8)
    axis.set_xlabel("horizontal stripe of the image", fontsize=8)
    return figure


def agreement_figure(found: PromptFindings) -> Figure:
    """The mean correlation (Pearson) of two prompts' maps of one image."""
    from matplotlib.figure import Figure

    names = [one.map for one in found.prompts][:_MOST]
    values = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(values, 1)
    for one in found.agreement:
        if one.measure == "pearson" and one.value is not None and {one.map_a, one.map_b} <= set(names):
            a, b = names.index(one.map_a), names.index(one.map_b)
            values[a, b] = values[b, a] = one.value
    side = 2.2 + 0.33 * len(names)
    figure = Figure(figsize=(side + 0.8, side))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    _draw_table(figure, axis, values, "mean Pearson correlation", "RdBu_r", (-1.0, 1.0))
    labels = [one.prompt for one in found.prompts][:_MOST]
    axis.set_yticks(range(len(names)), labels, fontsize=8)
    axis.set_xticks(range(len(names)), labels, fontsize=8, rotation=90)
    return figure


def attributes_figure(found: PromptFindings) -> Figure:
    """The AUC of each prompt on its part, and that of the other prompts there, with intervals."""
    from matplotlib.figure import Figure

    shown = found.attributes[:_MOST]
    figure = Figure(figsize=(6.8, 1.8 + 0.3 * len(shown)))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    for place, (kind, label) in enumerate((("auc", "the prompt"), ("others", "the other prompts on that part"))):
        estimates = [getattr(one, kind) for one in shown]
        value, low, high = (
            np.array([np.nan if number is None else number for number in numbers])
            for numbers in zip(*((one.value, one.low, one.high) for one in estimates), strict=True)
        )
        errors = np.nan_to_num(np.clip([value - low, high - value], 0, None))
        places = np.arange(len(shown)) + (-0.15, 0.15)[place]
        colour = (PALETTE[0], "0.6")[place]
        axis.errorbar(value, places, xerr=errors, fmt="o", color=colour, markersize=4, capsize=2, label=label)
    axis.axvline(0.5, color="0.6", linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(shown)), [f"{one.prompt} ({one.part})" for one in shown], fontsize=8)
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlabel("AUC of images with the attribute against images without (bars: 95 % interval)", fontsize=8)
    axis.grid(axis="x", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    figure.legend(loc="outside lower center", fontsize=8, ncols=2, frameon=False)
    return figure


def _draw_table(
    figure: Figure, axis: Axes, values: Float64Array, title: str, colours: str, ends: tuple[float, float]
) -> None:
    """Cells with colours on a scale between two ends."""
    image = axis.imshow(values, cmap=colours, vmin=ends[0], vmax=ends[1], aspect="auto")
    bar = figure.colorbar(image, ax=axis)
    bar.set_label(title, fontsize=8)
    bar.ax.tick_params(labelsize=7)
