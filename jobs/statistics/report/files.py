"""The files that `promptsg stats` writes: tables, mean maps, figures, and one HTML page that needs no other file."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import h5py

from jobs.atomic import make_folder, write_json, write_lines, write_whole
from jobs.figures import write_figures
from jobs.progress import told
from jobs.statistics.report.figures import FIGURES, draw_figures
from jobs.statistics.report.findings import Findings, agreement_table, stats_table
from jobs.statistics.report.outliers import OUTLIERS, DrawnOutliers
from jobs.statistics.report.page import report_page
from jobs.statistics.summary import MeanMap
from jobs.tables import csv_bytes, write_parquet


@dataclass(frozen=True, kw_only=True)
class StatsFiles:
    """Where each result is; `figures` is a folder."""

    report: Path
    table: Path
    table_csv: Path
    agreement: Path
    consistency: Path
    outliers: Path
    mean_maps: Path
    figures: Path


@told("writing the results")
def write_findings(found: Findings, folder: Path, drawn: DrawnOutliers | None = None) -> StatsFiles:
    """Writes every file, each atomically and the report last, with pictures of outliers where some were `drawn`.

    Figures of an earlier one are removed.
    """
    files = StatsFiles(
        report=folder / "report.html",
        table=folder / "stats.parquet",
        table_csv=folder / "stats.csv",
        agreement=folder / "agreement.csv",
        consistency=folder / "consistency.json",
        outliers=folder / OUTLIERS,
        mean_maps=folder / "mean_maps.h5",
        figures=folder / "figures",
    )
    make_folder(folder)
    table = stats_table(found)
    write_parquet(files.table, table)
    write_whole(files.table_csv, csv_bytes(table))
    write_whole(files.agreement, csv_bytes(agreement_table(found)))
    _write_consistency(found, files.consistency)
    write_lines(files.outliers, (outlier.key for outlier in found.outliers))
    _write_maps(found, files.mean_maps)
    pictures = write_figures(files.figures, draw_figures(found), FIGURES)
    write_whole(files.report, report_page(found, pictures, folder, drawn).encode())
    return files


def _write_consistency(found: Findings, path: Path) -> None:
    """The seed, the number of images, and each map's separation of identities, overall and by `a-b` cameras."""
    maps = {}
    for name, entry in found.consistency.items():
        by_cameras = {f"{a}-{b}": asdict(separation) for (a, b), separation in entry.camera_pairs.items()}
        maps[name] = {**asdict(entry.overall), "camera_pairs": by_cameras}
    sample = found.part.sample
    write_json(path, {"seed": found.part.question.seed, "images": len(sample.row), "maps": maps})


def _write_maps(found: Findings, path: Path) -> None:
    """/<map>/{mean,std,mean_low,mean_high} (G, h, w) float64; /groups, one JSON text per group, in the same order."""
    out = io.BytesIO()
    with h5py.File(out, "w", libver=("earliest", "v110")) as file:
        texts = [json.dumps(row, default=str) for row in found.part.groups.to_pylist()]
        file.create_dataset("groups", data=texts, dtype=h5py.string_dtype())
        for kind in (field.name for field in fields(MeanMap)):
            for name, mean_map in found.summary.maps.items():
                file.create_dataset(f"{name}/{kind}", data=getattr(mean_map, kind))
    write_whole(path, out.getvalue())
