"""The picture of a training's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.figures import png_of

_SHARES = ("accuracy", "attention_entropy")


def draw_curve(rows: Sequence[Mapping[str, float]]) -> bytes:
    """A PNG of the rows of the log, each with the same names: losses, shares, and learning rates over the steps."""
    rows = rows or [{"step": 0, "loss": float("nan")}]
    names = [name for name in rows[0] if name not in ("step", "epoch")]
    shares = [name for name in names if name in _SHARES]
    rates = [name for name in names if name.startswith("lr_")]
    losses = [name for name in names if name not in (*shares, *rates)]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_lines(left, rows, losses, "losses")
    left.set_ylim(bottom=0)
    _draw_lines(middle, rows, shares, "shares")
    middle.set_ylim(bottom=0)
    _draw_lines(right, rows, rates, "learning rates")
    right.set_yscale("log")
    return png_of(figure)


def _draw_lines(axes: Axes, rows: Sequence[Mapping[str, float]], names: Sequence[str], title: str) -> None:
    steps = [row["step"] for row in rows]
    for name in names:
        label = name.removeprefix("lr_").replace("_", " ")
        axes.plot(steps, [row[name] for row in rows], label=label, linewidth=2.2 if name == "loss" else 1.2)
    axes.set(title=title, xlabel="step")
    axes.grid(alpha=0.3)
    if names:
        axes.legend(fontsize="small")
