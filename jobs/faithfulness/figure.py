"""The figure of a faithfulness measurement: mean deletion and insertion curves."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from jobs.arrays import Float64Array
from jobs.faithfulness.measured import Measured, count_people
from jobs.faithfulness.plan import FILLS, RANDOM
from jobs.figures import PALETTE
from jobs.phrases import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS, _BLACK = PALETTE[:-1], PALETTE[-1]
_STYLES = ("-", "-.", ":")
_WORDS = {"deletion": ("replaced by", "removed", "lower"), "insertion": ("put back into", "put back", "higher")}
_FILL_NAMES = {"blur": "blurred image", "mean": "mean colour"}


def curves_figure(measured: Measured, means: Float64Array, differences: Float64Array) -> Figure:
    """(O, F, 2, K+1) means, (3, O, F, 2, K+1) differences from random -> the figure.

    Deletion is above insertion, the fills are side by side, each map has a line, and random is dashed. A band is
    random's mean plus the interval of the difference: images differ far more from each other than orders do.
    """
    from matplotlib.figure import Figure

    from cam.faithfulness import KINDS

    figure = Figure(figsize=(9.5, 7.2), layout="constrained")
    grid = figure.subplots(2, len(FILLS), sharex=True, sharey=True)
    share = 100 * measured.counts / measured.counts[-1]
    for (k, kind), (f, fill) in itertools.product(enumerate(KINDS), enumerate(FILLS)):
        axes: Axes = grid[k][f]
        for o, order in enumerate(measured.orders):
            if order == RANDOM:
                axes.plot(share, means[o, f, k], "--", color=_BLACK, label=f"{order} order", linewidth=1.6, zorder=3)
            else:
                _draw_line(axes, share, means[o, f, k], means[-1, f, k] + differences[1:, o, f, k], order, o)
        how, done, better = _WORDS[kind]
        axes.set_title(f"{kind}: {how} the {_FILL_NAMES[fill]} ({better} is better)", fontsize=10)
        axes.set_xlabel(f"patches {done} (%)")
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.set_ylabel(measured.title)
        axes.grid(alpha=0.3)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)), frameon=False)
    images, people = measured.rows.num_rows, count_people(measured.people())
    figure.suptitle(
        f"{counted(images, 'image')} of {counted(people, 'identity', 'identities')}; bands: 95 % of the difference "
        "from random"
    )
    return figure


def _draw_line(
    axes: Axes, share: Float64Array, mean: Float64Array, band: Float64Array, order: str, number: int
) -> None:
    """One curve and its band. Where there are more maps than colours, the colours repeat with another line style."""
    colour, style = _COLOURS[number % len(_COLOURS)], _STYLES[number // len(_COLOURS) % len(_STYLES)]
    axes.plot(share, mean, style, color=colour, label=order, linewidth=1.8)
    axes.fill_between(share, band[0], band[1], color=colour, alpha=0.15, linewidth=0)
