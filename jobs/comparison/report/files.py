"""The files that `promptsg diff` writes beside the table of images: numbers, lists of keys, figures, one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.atomic import write_json, write_lines, write_whole
from jobs.comparison.findings import RunDifference, as_json
from jobs.comparison.report.figures import FIGURES, draw_figures
from jobs.comparison.report.page import report_page
from jobs.figures import write_figures
from jobs.progress import told
from jobs.tables import write_parquet


@dataclass(frozen=True, kw_only=True)
class DiffFiles:
    """Where each result is.

    table: a row per pair. numbers: all numbers. changed: keys of the images whose first map moved most. queries, won,
    lost: a row per query, and the keys of those whose AP rose or fell; they exist where AP is known. figures: a folder.
    """

    report: Path
    table: Path
    numbers: Path
    changed: Path
    queries: Path
    won: Path
    lost: Path
    figures: Path

    @classmethod
    def in_folder(cls, folder: Path) -> DiffFiles:
        """Their names in the folder of the results."""
        return cls(
            report=folder / "report.html",
            table=folder / "diff.parquet",
            numbers=folder / "diff.json",
            changed=folder / "changed.txt",
            queries=folder / "queries.parquet",
            won=folder / "won.txt",
            lost=folder / "lost.txt",
            figures=folder / "figures",
        )


@told("writing the results")
def write_difference(found: RunDifference, files: DiffFiles) -> None:
    """Writes every file but the table, each whole or not at all, the report last.

    Files of an earlier comparison, in the same folder, that this one does not have are removed.
    """
    write_lines(files.changed, (image.key for image in found.changed))
    if found.retrieval is None:
        for path in (files.queries, files.won, files.lost):
            path.unlink(missing_ok=True)
    else:
        write_parquet(files.queries, found.retrieval.table)
        write_lines(files.won, found.retrieval.won)
        write_lines(files.lost, found.retrieval.lost)
    write_json(files.numbers, as_json(found))
    pictures = write_figures(files.figures, draw_figures(found), FIGURES)
    write_whole(files.report, report_page(found, pictures, files.changed).encode())
