"""The files of a faithfulness measurement: areas by image, mean curves as a table and as a figure, the summary.

Legend: N images, O orders (each map, then random), F fills, K steps, S scores.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.arrays import Float64Array
from jobs.atomic import make_folder, write_json, write_whole
from jobs.faithfulness.figure import curves_figure
from jobs.faithfulness.measured import Measured
from jobs.faithfulness.plan import FILLS, RANDOM, FaithfulnessConfig
from jobs.faithfulness.summary import FaithfulnessSummary, with_intervals
from jobs.figures import png_of
from jobs.progress import told
from jobs.tables import csv_text, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa


@told("writing the results")
def write_report(folder: Path, config: FaithfulnessConfig, measured: Measured, summary: FaithfulnessSummary) -> None:
    """Writes faithfulness.parquet, curves.csv, curves.png and, last, summary.json."""
    make_folder(folder)
    people, curves = measured.people(), measured.curves
    means = with_intervals(curves, people, config)
    differences = with_intervals(curves - curves[:, -1:], people, config)
    write_parquet(folder / "faithfulness.parquet", _areas_table(measured))
    write_whole(folder / "curves.csv", _curves_csv(measured, means))
    figure = curves_figure(measured, means[0, :, ..., 0], differences[..., 0])
    write_whole(folder / "curves.png", png_of(figure))
    write_json(folder / "summary.json", summary.as_json())


def _areas_table(measured: Measured) -> pa.Table:
    """A row per image, map (or random), fill and kind: the area, and its difference from that of random orders."""
    import numpy as np
    import pyarrow as pa

    from cam.faithfulness import KINDS

    areas = measured.areas()
    per_image = areas[0].size
    differences = areas - areas[:, -1:]
    differences[:, measured.orders.index(RANDOM)] = np.nan
    cells = list(itertools.product(measured.orders, FILLS, KINDS)) * len(areas)
    rows = measured.rows.select(["shard", "key", "pid", "camid"])
    repeated = rows.take(pa.array(np.repeat(np.arange(len(areas)), per_image)))
    columns = {
        "map": pa.array([order for order, _, _ in cells]),
        "fill": pa.array([fill for _, fill, _ in cells]),
        "kind": pa.array([kind for _, _, kind in cells]),
        "score": pa.array([measured.scores[0]] * len(cells)),
        "auc": pa.array(areas.ravel()),
        "difference": pa.array(differences.ravel(), from_pandas=True),  # NaN as null
    }
    types = {"shard": pa.string(), "key": pa.string(), "pid": pa.int64(), "camid": pa.int32()}
    return pa.table({**{name: repeated[name].cast(kind) for name, kind in types.items()}, **columns})


def _curves_csv(measured: Measured, means: Float64Array) -> bytes:
    """A line per map, fill, kind, step and score: the mean over images and its interval."""
    from cam.faithfulness import KINDS

    header = ["map", "fill", "kind", "score", "patches", "share", "mean", "low", "high"]
    rows: list[list[object]] = []
    axes = (measured.orders, FILLS, KINDS, measured.counts.tolist(), measured.scores)
    for cell, values in zip(itertools.product(*axes), means.reshape(3, -1).T, strict=True):
        order, fill, kind, count, score = cell
        numbers = ["" if v != v else f"{v:.6g}" for v in values]
        rows.append([order, fill, kind, score, count, f"{count / measured.counts[-1]:.6g}", *numbers])
    return csv_text(header, rows).encode()
