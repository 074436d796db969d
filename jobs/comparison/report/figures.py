"""The figures of `promptsg diff`: mean maps of both runs with their difference, and the change of AP beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cam.names import column_of
from jobs.arrays import Float64Array
from jobs.comparison.findings import MapDifference, RunDifference
from jobs.comparison.retrieval_change import RetrievalChange
from jobs.figures import PALETTE
from jobs.phrases import counted
from jobs.statistics.report.figures import draw_patch_borders

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIVERGING = "RdBu_r"  # blue where B has less mass, red where it has more
_MOST_GROUPS = 8
_MOST_POINTS = 20_000
RETRIEVAL = "retrieval"
FIGURES = ("mean_maps_*", RETRIEVAL)  # the names that figures can have


def mean_maps_name(name: str) -> str:
    """The file of a map's figure, without its ending."""
    return f"mean_maps_{column_of(name)}"


def draw_figures(found: RunDifference) -> dict[str, Figure]:
    """File name without ending -> figure."""
    made = {mean_maps_name(name): mean_maps_figure(found, name) for name, one in found.maps.items() if one.pairs.any()}
    if found.retrieval is not None and found.retrieval.parts:
        made[RETRIEVAL] = retrieval_figure(found.retrieval, found.question.maps[0])
    return made


def mean_maps_figure(found: RunDifference, name: str) -> Figure:
    """A row for each of the largest groups: the mean map of A, of B, and B minus A on a scale centred on 0."""
    from matplotlib.figure import Figure

    one = found.maps[name]
    order = np.argsort(-one.pairs, kind="stable")[:_MOST_GROUPS]
    shown = sorted(g for g in order.tolist() if one.pairs[g])
    h, w = one.cells
    by_rows = len(shown) <= 2  # groups are rows; many of them are columns, so that the figure stays wide
    lines, columns = (len(shown), 3) if by_rows else (3, len(shown))
    wide = 1.3 if h >= w else 2.0  # inches of a panel
    figure = Figure(figsize=(columns * (wide + 0.25) + 2.2, lines * (wide * h / w + 0.45) + 0.8))
    figure.set_layout_engine("compressed")
    axes = figure.subplots(lines, columns, squeeze=False)
    axes = axes if by_rows else axes.T  # (groups, 3)
    top = 100 * float(max(one.mean_a[shown].max(), one.mean_b[shown].max()))
    most = 100 * float(np.abs(one.difference[shown]).max()) or 1.0
    for row, g in enumerate(shown):
        for axis, mean in zip(axes[row], (one.mean_a, one.mean_b), strict=False):
            means = axis.imshow(100 * mean[g], cmap="viridis", vmin=0, vmax=top)
        change = axes[row, 2].imshow(100 * one.difference[g], cmap=DIVERGING, vmin=-most, vmax=most)
        _mark_certain(axes[row, 2], one, g)
        for axis, title in zip(axes[row], ("run A", "run B", "B minus A"), strict=True):
            draw_patch_borders(axis, h, w)
            axis.set_title(title, fontsize=8)
        axes[row, 0].set_title(f"{_label(found, g)}\nn = {one.pairs[g]:,}\nrun A", fontsize=8)
    for image, where, text in (
        (means, axes[:, :2], "mean share of the\nmap's mass per patch, %"),
        (change, axes[:, 2], "difference, percentage points\n(dots: the 95 % interval leaves out 0)"),
    ):
        bar = figure.colorbar(image, ax=where, shrink=0.8, location="bottom" if by_rows else "right")
        bar.set_label(text, fontsize=7)
        bar.ax.tick_params(labelsize=7)
    total = int((one.pairs > 0).sum())
    more = f" ({len(shown)} largest of {counted(total, 'group')})" if total > len(shown) else ""
    figure.suptitle(f"Mean maps, {name}{more}", fontsize=10)
    return figure


def retrieval_figure(change: RetrievalChange, name: str) -> Figure:
    """Left, each query's change of AP by how much its map moved; right, the mean change in each quarter."""
    from matplotlib.figure import Figure

    moved = change.table[f"{column_of(name)}_moved"].to_numpy()
    ap: Float64Array = change.table["ap_change"].to_numpy()
    known = np.flatnonzero(np.isfinite(moved))
    if len(known) > _MOST_POINTS:  # more would hide each other
        known = np.sort(np.random.default_rng(0).choice(known, _MOST_POINTS, replace=False))
    figure = Figure(figsize=(10, 4.2))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    left.scatter(moved[known], ap[known], s=10, color=PALETTE[0], alpha=0.5, linewidths=0)
    left.set_ylabel("AP of B minus AP of A")
    left.set_title(f"each query ({len(known):,})", fontsize=10)
    _draw_parts(right, change)
    for axis in (left, right):
        axis.axhline(0, color="0.6", linewidth=0.8, linestyle="--")
        axis.set_xlabel(f"share of the mass of {name} that lies elsewhere in B", fontsize=9)
        axis.set_xlim(left=0)
    figure.suptitle("Where B looks elsewhere, does it retrieve better?", fontsize=11)
    return figure


def _draw_parts(axis: Axes, change: RetrievalChange) -> None:
    """The mean of each quarter in the middle of its range, with its interval."""
    for part in change.parts:
        mean = part.ap_change
        if mean.value is None:
            continue
        middle, half = (part.least + part.most) / 2, (part.most - part.least) / 2
        # Percentile intervals of a skewed mean need not hold the mean itself.
        ends = [[max(0.0, mean.value - (mean.value if mean.low is None else mean.low))],
                [max(0.0, (mean.value if mean.high is None else mean.high) - mean.value)]]  # fmt: skip
        axis.errorbar(middle, mean.value, xerr=half, yerr=ends, fmt="o", color=PALETTE[1], capsize=3, markersize=5)
    axis.set_ylabel("mean change of AP (95 % interval over identities)", fontsize=9)
    axis.set_title("quarters of the queries, by how much the map moved", fontsize=10)


def _mark_certain(axis: Axes, one: MapDifference, g: int) -> None:
    """A dot in each patch whose interval does not hold 0."""
    rows, columns = np.nonzero((one.low[g] > 0) | (one.high[g] < 0))
    axis.scatter(columns, rows, s=4, color="black", linewidths=0)


def _label(found: RunDifference, g: int) -> str:
    """A group's name, in which a dollar does not begin a formula."""
    return found.labels[g].replace("$", r"\$").replace(", ", "\n")
