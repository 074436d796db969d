"""The figures of `promptsg stats`: mean maps, stripes and distributions, a figure per map of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cam.measures import STRIPES
from cam.names import column_of, title_of
from jobs.arrays import Int64Array
from jobs.figures import PALETTE
from jobs.phrases import counted
from jobs.statistics.accumulate import MEASURED
from jobs.statistics.report.findings import Findings
from jobs.statistics.stored import BINS, DISTRIBUTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FIGURES = ("mean_map_*", "stripes_*", "distributions_*")  # the names that figures can have
_PANELS = 24
_BARS = 40
_STRIPE_ROWS = np.arange(1, STRIPES + 1)
_LABELS = {
    "entropy": "entropy / ln(number of patches), 0 to 1",
    "area50": "share of patches with 50 % of the mass",
    "com_x": "centre of mass, x (0 left, 1 right)",
    "com_y": "centre of mass, y (0 top, 1 bottom)",
}


def draw_figures(found: Findings) -> dict[str, Figure]:
    """File name without ending -> figure: mean maps, stripes and distributions of each map that has any mass."""
    made = {}
    for k, name in enumerate(found.part.question.maps):
        if found.summary.good[:, k].any():
            column = column_of(name)
            made[f"mean_map_{column}"] = mean_map_figure(found, k, name)
            made[f"stripes_{column}"] = stripes_figure(found, k, name)
            made[f"distributions_{column}"] = distributions_figure(found, k, name)
    return made


def mean_map_figure(found: Findings, k: int, name: str) -> Figure:
    """The mean map of each group on one colour scale, patch borders drawn."""
    from matplotlib.figure import Figure

    shown = largest(found, k, _PANELS)
    mean = found.summary.maps[name].mean[shown] * 100
    h, w = mean.shape[1:]
    columns = min(6, len(shown))
    lines = -(-len(shown) // columns)
    wide = 1.35 if h >= w else 1.8  # inches of a panel
    figure = Figure(figsize=(max(4.2, columns * (wide + 0.3) + 1.2), lines * (wide * h / w + 0.6) + 0.8))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.ravel()[len(shown) :]:
        axis.set_visible(False)
    for place, (axis, g) in enumerate(zip(axes.ravel(), shown, strict=False)):
        image = axis.imshow(mean[place], cmap="viridis", vmin=0, vmax=float(mean.max()), aspect="equal")
        draw_patch_borders(axis, h, w)
        label = _label(found, g).replace(", ", "\n")
        axis.set_title(f"{label}\nn = {found.summary.good[g, k]:,}", fontsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("mean share of the map's mass per patch, %", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.supxlabel("patch column", fontsize=8)
    figure.supylabel("patch row", fontsize=8)
    figure.suptitle(f"Mean map, {title_of(name)}{_left_out(found, k, shown)}", fontsize=10)
    return figure


def stripes_figure(found: Findings, k: int, name: str) -> Figure:
    """Mass in six stripes from the top, a line per group, with its interval."""
    from matplotlib.figure import Figure

    shown = largest(found, k, len(PALETTE))
    figure = Figure(figsize=(6.6, 4.4))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    for place, g in enumerate(shown):
        _draw_stripes(axis, found, k, g, PALETTE[place], MARKERS[place], 0.07 * (place - (len(shown) - 1) / 2))
    axis.axvline(100 / STRIPES, color="0.6", linewidth=0.8, linestyle="--", label="uniform map")
    axis.set_yticks(_STRIPE_ROWS, ["1 (top)", *map(str, range(2, STRIPES)), f"{STRIPES} (bottom)"])
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("share of the map's mass, % (bars: 95 % interval over identities)")
    axis.set_ylabel("horizontal stripe of the image")
    axis.set_title(f"Mass in six stripes, {title_of(name)}{_left_out(found, k, shown)}", fontsize=10)
    figure.legend(loc="outside lower center", fontsize=8, ncols=2, frameon=False)
    return figure


def distributions_figure(found: Findings, k: int, name: str) -> Figure:
    """Histograms over images, as a percentage of each group's images."""
    from matplotlib.figure import Figure

    shown = largest(found, k, len(PALETTE))
    figure = Figure(figsize=(8, 6.2))
    figure.set_layout_engine("constrained")
    for d, axis in enumerate(figure.subplots(2, 2).ravel()):
        starts = _bar_starts(found, k, d, shown)
        if starts is None:
            axis.text(0.5, 0.5, "no finite value", ha="center", transform=axis.transAxes)
            continue
        _draw_histograms(axis, found, (k, d), shown, starts)
        axis.margins(x=0.03)
        axis.set_ylim(bottom=0)
        axis.set_xlabel(_LABELS[DISTRIBUTIONS[d]], fontsize=9)
        axis.set_ylabel("images of the group, %", fontsize=9)
        axis.tick_params(labelsize=8)
    figure.suptitle(f"Distributions over images, {title_of(name)}{_left_out(found, k, shown)}", fontsize=10)
    figure.legend(loc="outside lower center", fontsize=8, ncols=3, frameon=False)
    return figure


def largest(found: Findings, k: int, most: int) -> list[int]:
    """The groups with the most maps that have mass, at most `most`, in the order of the groups."""
    counts = found.summary.good[:, k]
    return sorted(i for i in np.argsort(-counts, kind="stable")[:most].tolist() if counts[i])


def draw_patch_borders(axis: Axes, h: int, w: int) -> None:
    """Lines between the patches of an axis that shows a map (h, w), and the numbers of the outermost ones."""
    axis.set_xticks(np.arange(w + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(h + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=0.35, alpha=0.6)
    axis.tick_params(which="both", length=0, labelsize=7)
    axis.set_xticks([0, w - 1], ["1", str(w)])
    axis.set_yticks([0, h - 1], ["1", str(h)])


def _draw_stripes(axis: Axes, found: Findings, k: int, g: int, colour: str, marker: str, shift: float) -> None:
    """One group's line, a little below the stripes' own height so that lines do not hide each other."""
    s, first = found.summary, MEASURED.index("stripe_0")
    stripes = slice(first, first + STRIPES)
    value, low, high = (values[g, k, stripes] * 100 for values in (s.value, s.low, s.high))
    # Percentile intervals of a skewed mean need not hold the mean itself.
    errors = np.nan_to_num(np.clip([value - low, high - value], 0, None))
    axis.errorbar(
        value,
        _STRIPE_ROWS + shift,
        xerr=errors,
        color=colour,
        marker=marker,
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label=f"{_label(found, g)} (n = {found.summary.good[g, k]:,})",
    )


def _bar_starts(found: Findings, k: int, d: int, shown: list[int]) -> Int64Array | None:
    """The first bin of each bar of the d-th distribution; None where no image has a value."""
    used = np.flatnonzero(found.part.histogram[shown, k, d].sum(axis=0))
    if not len(used):
        return None
    width = max(1, -(-(used[-1] + 1 - used[0]) // _BARS))  # bins are fine, so that narrow ranges have a shape too
    if DISTRIBUTIONS[d] == "area50":  # a whole number of patches: narrower bars would leave gaps between them
        patches = int(np.prod(found.part.grids[found.part.question.maps[k]]))
        width = max(width, -(-BINS // max(1, patches)))
    # One more start ends the last bar.
    starts = np.arange(used[0], used[-1] + 1, width)
    return np.append(starts, starts[-1] + width)


def _draw_histograms(axis: Axes, found: Findings, which: tuple[int, int], shown: list[int], starts: Int64Array) -> None:
    """A line per group; `which` are the map and the distribution, starts (bars + 1,) the bins between bars."""
    k, d = which
    for place, g in enumerate(shown):
        bins = found.part.histogram[g, k, d][: starts[-1]]
        counts = np.add.reduceat(bins, starts[:-1])
        if counts.sum():
            label = _label(found, g) if d == 0 else None
            percent, style = 100 * counts / counts.sum(), ("-", "--", ":")[place % 3]
            axis.stairs(percent, starts / BINS, color=PALETTE[place], linewidth=1.2, linestyle=style, label=label)


def _label(found: Findings, g: int) -> str:
    """A group's name, in which a dollar does not begin a formula."""
    return found.labels[g].replace("$", r"\$")


def _left_out(found: Findings, k: int, shown: list[int]) -> str:
    total = int((found.summary.good[:, k] > 0).sum())
    return f" ({len(shown)} largest of {counted(total, 'group')})" if total > len(shown) else ""
