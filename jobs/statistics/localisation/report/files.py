"""The files that `promptsg localise` writes: rows, numbers, figures, and one HTML page that needs no other file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.atomic import write_json, write_whole
from jobs.figures import write_figures
from jobs.progress import told
from jobs.statistics.intervals.resamples import LEVEL
from jobs.statistics.localisation.findings import LocaliseFindings
from jobs.statistics.localisation.report.figures import FIGURES, draw_figures
from jobs.statistics.localisation.report.page import report_page
from jobs.statistics.localisation.table import RowsWriter
from jobs.tables import json_rows


@dataclass(frozen=True, kw_only=True)
class LocaliseFiles:
    """Where each result is; `figures` is a folder."""

    report: Path
    rows: Path
    numbers: Path
    figures: Path


@told("writing the results")
def write_localisation(found: LocaliseFindings, rows: RowsWriter, folder: Path) -> LocaliseFiles:
    """Writes every file, each atomically and the report last. Figures of an earlier one are removed."""
    files = LocaliseFiles(
        report=folder / "report.html",
        rows=folder / "localise.parquet",
        numbers=folder / "localise.json",
        figures=folder / "figures",
    )
    rows.publish(files.rows)
    write_json(files.numbers, _content(found))
    pictures = write_figures(files.figures, draw_figures(found), FIGURES)
    write_whole(files.report, report_page(found, pictures).encode())
    return files


def _content(found: LocaliseFindings) -> dict[str, object]:
    """What localise.json has; `group` is the values that were grouped by, empty without --by."""
    groups = json_rows(found.groups if found.question.by else found.groups.select([]))
    counts = found.counts
    return {
        "run": found.run,
        "where": found.question.where,
        "maps": list(found.question.maps),
        "bootstrap": {"resamples": found.resamples, "seed": found.question.seed, "interval": LEVEL},
        "images": found.images,
        "masks": {
            "status": dict(counts.status),
            "examples": counts.examples,
            "problems": dict(counts.problems),
            "other_aspect": counts.other_aspect,
            "unnamed_labels": {str(label): number for label, number in sorted(counts.unnamed.items())},
        },
        "person_area": [{"group": group, **asdict(area)} for group, area in zip(groups, found.area, strict=True)],
        "scores": [{**asdict(one), "group": groups[one.group]} for one in found.scores],
        "parts": [{**asdict(one), "group": groups[one.group]} for one in found.parts],
        "fixed_maps": [
            {
                "prior": mean.prior.tolist(),
                "averages": {name: average.tolist() for name, average in mean.averages.items()},
            }
            for mean in found.means
        ],
        "queries": None if found.queries is None else [asdict(one) for one in found.queries],
    }
