"""What a faithfulness measurement says: areas with intervals, tables, a figure, and the files of its folder.

Legend: N images, O orders (each map, then random), F fills, K steps, S scores.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.faithfulness.plan import FILLS, RANDOM, Config, Measured

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from jobs.runs.run import Run
    from jobs.shards.random_access import Row

# Okabe and Ito 2008: colours that people with any colour vision tell apart; yellow is too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_WORDS = {"deletion": ("replaced by", "removed", "lower"), "insertion": ("put back into", "put back", "higher")}
_FILL_NAMES = {"blur": "blurred image", "mean": "mean colour"}


def areas(measured: Measured) -> NDArray[np.float64]:
    """(N, O, F, 2): the area under each curve of the first score."""
    import torch

    from cam.faithfulness import area

    return area(torch.from_numpy(measured.curves[..., 0]), torch.from_numpy(measured.counts)).numpy()


def summarise(run: Run, config: Config, measured: Measured) -> dict[str, Any]:
    """All that summary.json says; `difference` is the area minus that of random orders on the same images."""
    import numpy as np

    from cam.faithfulness import KINDS

    who = _identities(measured.rows)
    values = areas(measured)
    means = _with_intervals(values, who, config)
    differences = _with_intervals(values - values[:, -1:], who, config)
    found = []
    for (o, order), (f, fill), (k, kind) in itertools.product(*map(enumerate, (measured.orders, FILLS, KINDS))):
        entry: dict[str, Any] = {"map": order, "kind": kind, "fill": fill, **_named("auc", means[:, o, f, k])}
        found.append(entry | (_named("difference", differences[:, o, f, k]) if order != RANDOM else {}))
    return {
        "run": str(run.layout.root),
        "checkpoint": str(config.checkpoint),
        "checkpoint_sha256": measured.checkpoint_sha256,
        "precision": measured.precision,
        "images": len(measured.rows),
        "identities": len(np.unique(who)),
        "target": run.manifest.asked.target,
        "score": measured.title,
        "patches": int(measured.counts[-1]),
        "steps": config.steps,
        "random_orders": config.random,
        "blur_sigma_pixels": measured.sigma,
        "seed": config.seed,
        "resamples": config.resamples,
        "zero_maps": measured.zero_maps,
        "faithfulness": found,
        "sanity": _sanity_rows(measured, who, config),
    }


def _sanity_rows(measured: Measured, who: NDArray[np.int64], config: Config) -> list[dict[str, Any]]:
    import numpy as np

    found = []
    for level, by_map in measured.correlations.items():
        for name, values in by_map.items():
            mean = _with_intervals(values, who[measured.checked], config)
            constant = int(np.isnan(values[:, 0]).sum())
            entry = {"map": name, "random": level, "images": len(values), "constant_maps": constant}
            found.append({**entry, **_named("pearson", mean[:, 0]), **_named("spearman", mean[:, 1])})
    return found


def _identities(rows: Sequence[Row]) -> NDArray[np.int64]:
    """(N,) pids; what has none counts as junk, which is one identity in the redraws."""
    import numpy as np

    return np.array([-1 if row["pid"] is None else row["pid"] for row in rows], np.int64)


def _with_intervals(values: NDArray[Any], who: NDArray[np.int64], config: Config) -> NDArray[np.float64]:
    """(N, ...) -> (3, ...): mean over images, low and high end of its interval."""
    import numpy as np

    from jobs.statistics.resamples import mean_over_identities

    flat = values.reshape(len(values), -1).astype(np.float64)
    found = mean_over_identities(flat, who, resamples=config.resamples, seed=config.seed)
    return np.stack(found).reshape(3, *values.shape[1:])


def _named(name: str, values: NDArray[np.float64]) -> dict[str, float | None]:
    """Mean, low and high under a name; None where not defined, as JSON has no NaN."""
    return {f"{name}{end}": None if v != v else float(v) for end, v in zip(("", "_low", "_high"), values, strict=True)}


def write(folder: Path, config: Config, measured: Measured, summary: Mapping[str, Any]) -> None:
    """Writes faithfulness.parquet, curves.csv, curves.png and, last, summary.json."""
    from jobs.atomic import make_folder, write_whole

    make_folder(folder)
    who, curves = _identities(measured.rows), measured.curves
    means = _with_intervals(curves, who, config)
    differences = _with_intervals(curves - curves[:, -1:], who, config)
    write_whole(folder / "faithfulness.parquet", _parquet(measured))
    write_whole(folder / "curves.csv", _csv(measured, means))
    write_whole(folder / "curves.png", _figure(measured, means[0, :, ..., 0], differences[..., 0]))
    write_whole(folder / "summary.json", (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode())


def _parquet(measured: Measured) -> bytes:
    """A row per image, map (or random), fill and kind: the area, and how far it is from that of random orders."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cam.faithfulness import KINDS

    values = areas(measured)
    away = (values - values[:, -1:]).ravel()
    cells = list(itertools.product(measured.rows, measured.orders, FILLS, KINDS))
    columns = {
        **{name: pa.array([row[name] for row, *_ in cells], kind) for name, kind in
           (("shard", pa.string()), ("key", pa.string()), ("pid", pa.int64()), ("camid", pa.int32()))},
        "map": pa.array([order for _, order, _, _ in cells]),
        "fill": pa.array([fill for *_, fill, _ in cells]),
        "kind": pa.array([kind for *_, kind in cells]),
        "score": pa.array([measured.scores[0]] * len(cells)),
        "auc": pa.array(values.ravel()),
        "difference": pa.array([None if c[1] == RANDOM else d for c, d in zip(cells, away, strict=True)], pa.float64()),
    }  # fmt: skip
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def _csv(measured: Measured, means: NDArray[np.float64]) -> bytes:
    """A line per map, kind, fill, score and step: the mean over images and its interval."""
    from cam.faithfulness import KINDS

    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["map", "fill", "kind", "score", "patches", "share", "mean", "low", "high"])
    axes = (measured.orders, FILLS, KINDS, measured.counts.tolist(), measured.scores)
    for cell, values in zip(itertools.product(*axes), means.reshape(3, -1).T, strict=True):
        order, fill, kind, count, score = cell
        numbers = ["" if v != v else f"{v:.6g}" for v in values]
        lines.writerow([order, fill, kind, score, count, f"{count / measured.counts[-1]:.6g}", *numbers])
    return out.getvalue().encode()


def _figure(measured: Measured, means: NDArray[np.float64], differences: NDArray[np.float64]) -> bytes:
    """(O, F, 2, K+1) means, (3, O, F, 2, K+1) differences from random -> PNG: deletion above insertion, fills side by
    side, a line per map, random dashed.

    A band is random's mean plus the interval of the difference: images differ far more from each other than orders do.
    """
    import matplotlib

    from cam.faithfulness import KINDS

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(2, len(FILLS), figsize=(9.5, 7.2), sharex=True, sharey=True, layout="constrained")
    share = 100 * measured.counts / measured.counts[-1]
    for (k, kind), (f, fill) in itertools.product(enumerate(KINDS), enumerate(FILLS)):
        axes: Axes = grid[k][f]
        for o, order in enumerate(measured.orders):
            _line(axes, share, means[o, f, k], means[-1, f, k] + differences[1:, o, f, k], order, o)
        how, done, better = _WORDS[kind]
        axes.set_title(f"{kind}: {how} the {_FILL_NAMES[fill]} ({better} is better)", fontsize=10)
        axes.set_xlabel(f"patches {done} (%)")
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.set_ylabel(measured.title)
        axes.grid(alpha=0.3)
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)), frameon=False)
    people = len(set(_identities(measured.rows).tolist()))
    figure.suptitle(f"{len(measured.rows)} images of {people} identities; bands: 95 % of the difference from random")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    pyplot.close(figure)
    return out.getvalue()


def _line(
    axes: Axes,
    share: NDArray[np.float64],
    mean: NDArray[np.float64],
    band: NDArray[np.float64],
    order: str,
    number: int,
) -> None:
    """One curve and its band; colours go round with other line styles where there are more maps than colours."""
    if order == RANDOM:
        axes.plot(share, mean, "--", color="#000000", label=f"{order} order", linewidth=1.6, zorder=3)
        return
    colour, style = _COLOURS[number % len(_COLOURS)], ("-", "-.", ":")[number // len(_COLOURS) % 3]
    axes.plot(share, mean, style, color=colour, label=order, linewidth=1.8)
    axes.fill_between(share, band[0], band[1], color=colour, alpha=0.15, linewidth=0)


def describe(summary: Mapping[str, Any]) -> str:
    """The tables that are printed."""
    lines = [
        f"{summary['images']} images of {summary['identities']} identities; score: {summary['score']}",
        f"{summary['patches']} patches in {summary['steps']} steps, highest first; blur sigma "
        f"{summary['blur_sigma_pixels']:g} pixels; random: mean of {summary['random_orders']} orders",
        "area under the curve [95 % over identities]; deletion: lower is better, insertion: higher is better",
    ]
    lines += [f"  {count} all-zero maps of {name}, whose order is that of the grid's rows"
              for name, count in summary["zero_maps"].items() if count]  # fmt: skip
    rows = [("map", "kind", "fill", "area", "minus random")]
    rows += [(e["map"], e["kind"], e["fill"], _range(e, "auc"), _range(e, "difference", "+"))
             for e in summary["faithfulness"]]  # fmt: skip
    lines += ["", *_aligned(rows)]
    if summary["sanity"]:
        count = summary["sanity"][0]["images"]
        lines += ["", f"correlation with the stored maps of {count} images, after weights were made random "
                  "(near 0: the map depends on them)"]  # fmt: skip
        rows = [("map", "random", "Pearson", "Spearman", "constant maps")]
        rows += [
            (e["map"], e["random"], _range(e, "pearson"), _range(e, "spearman"), str(e["constant_maps"]))
            for e in sorted(summary["sanity"], key=lambda e: list(summary["zero_maps"]).index(e["map"]))
        ]
        lines += _aligned(rows)
    return "\n".join(lines)


def _range(entry: Mapping[str, Any], name: str, sign: str = "") -> str:
    """`0.123 [0.100, 0.150]`; a dash where there is no number."""
    mean, low, high = (entry.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if mean is None:
        return "-"
    return f"{mean:{sign}.4f}" + ("" if low is None or high is None else f" [{low:{sign}.4f}, {high:{sign}.4f}]")


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
