"""The files that `promptsg stats` leaves: tables, mean maps, figures, and one HTML page that needs nothing else."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from jobs.atomic import StagedFile, make_folder, write_whole
from jobs.statistics.figures import figures
from jobs.statistics.findings import Findings, result_schema, stats_table
from jobs.statistics.page import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_findings(found: Findings, folder: Path) -> dict[str, Path]:
    """Writes every file, each atomically and the report last; what -> path."""
    import matplotlib

    matplotlib.use("Agg")
    make_folder(folder / "figures")
    table = stats_table(found)
    _write_table(table, folder / "stats.parquet")
    write_whole(folder / "stats.csv", _csv(table))
    agreement = pa.Table.from_pylist(found.agreement, schema=_agreement_schema(found.part.groups.schema))
    write_whole(folder / "agreement.csv", _csv(agreement))
    facts = {"seed": found.part.question.seed, "images": len(found.part.sample.row), "maps": found.consistency}
    write_whole(folder / "consistency.json", (json.dumps(facts, indent=1) + "\n").encode())
    keys = [found.keys[o.shard, o.row] for o in found.outliers]
    write_whole(folder / "outliers.txt", "".join(f"{key}\n" for key in keys).encode())
    _write_maps(found, folder / "mean_maps.h5")
    pictures = {}
    for name, figure in figures(found).items():
        pictures[name] = _png(figure)
        write_whole(folder / "figures" / f"{name}.png", pictures[name])
    write_whole(folder / "report.html", report(found, pictures).encode())
    return {"report": folder / "report.html", "stats": folder / "stats.parquet"}


def _agreement_schema(groups: pa.Schema) -> pa.Schema:
    return result_schema(groups, [(name, pa.string()) for name in ("map_a", "map_b", "measure")])


def _write_table(table: pa.Table, path: Path) -> None:
    with StagedFile(path) as staged:
        pq.write_table(table, staged.file, compression="zstd")
        staged.sync()
        staged.publish()


def _csv(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pyarrow.csv.write_csv(table, out)
    return out.getvalue()


def _write_maps(found: Findings, path: Path) -> None:
    """/<map>/{mean,std,mean_low,mean_high} (G, h, w) float64 and /groups, one JSON text per group, in one order."""
    out = io.BytesIO()
    with h5py.File(out, "w", libver=("earliest", "v110")) as file:
        texts = [json.dumps(row, default=str) for row in found.part.groups.to_pylist()]
        file.create_dataset("groups", data=texts, dtype=h5py.string_dtype())
        for kind in ("mean", "std", "mean_low", "mean_high"):
            for name, values in getattr(found.summary, kind).items():
                file.create_dataset(f"{name}/{kind}", data=values)
    write_whole(path, out.getvalue())


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130)
    return out.getvalue()
