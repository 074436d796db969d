"""The files of `promptsg stats --by prompt`: numbers, figures, and one HTML page that needs no other file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.atomic import write_json, write_whole
from jobs.figures import write_figures
from jobs.statistics.intervals.resamples import LEVEL
from jobs.statistics.prompts.findings import PromptFindings
from jobs.statistics.prompts.report.figures import FIGURES, draw_figures
from jobs.statistics.prompts.report.page import report_page
from jobs.tables import none_if_nan


@dataclass(frozen=True, kw_only=True)
class PromptFiles:
    """Where each result is; `figures` is a folder."""

    report: Path
    rows: Path
    numbers: Path
    figures: Path


def write_prompts(found: PromptFindings, folder: Path) -> PromptFiles:
    """Writes every file but the rows, which are there, each atomically and the report last.

    Figures of an earlier report are removed.
    """
    files = PromptFiles(
        report=folder / "report.html",
        rows=folder / "prompts.parquet",
        numbers=folder / "prompts.json",
        figures=folder / "figures",
    )
    write_json(files.numbers, _content(found))
    pictures = write_figures(files.figures, draw_figures(found), FIGURES)
    write_whole(files.report, report_page(found, pictures).encode())
    return files


def _content(found: PromptFindings) -> dict[str, object]:
    return {
        "run": found.run,
        "where": found.question.where,
        "images": found.images,
        "identities": found.identities,
        "bootstrap": {"resamples": found.resamples, "seed": found.question.seed, "interval": LEVEL},
        "prompts": [
            {**asdict(one), "mean": [[none_if_nan(value) for value in row] for row in one.mean.tolist()]}
            for one in found.prompts
        ],
        "agreement": [asdict(one) for one in found.agreement],
        "attributes": [asdict(one) for one in found.attributes],
    }
