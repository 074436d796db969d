"""How well a run's maps lie on the persons of images with masks, per group, with intervals (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.atomic import make_folder
from jobs.errors import UserError
from jobs.leftovers import scratch_folder
from jobs.phrases import counted, first_few
from jobs.progress import LongTask
from jobs.runs.metadata_sql import refuse_blank
from jobs.runs.query import warn_of_unfinished
from jobs.runs.run import Run, open_run
from jobs.statistics.chosen import choose_images
from jobs.statistics.localisation.blocks import MISSING, OK, UNREADABLE, MaskCounts, mask_blocks
from jobs.statistics.localisation.config import LocaliseConfig
from jobs.statistics.localisation.findings import GroupMeans, LocaliseFindings
from jobs.statistics.localisation.labels import read_label_names
from jobs.statistics.localisation.mask_files import MaskFiles, MaskFolders, ShardMasks
from jobs.statistics.localisation.measure import Localiser, MapGrids
from jobs.statistics.localisation.queries import compare_queries, ranked_queries
from jobs.statistics.localisation.report.files import LocaliseFiles, write_localisation
from jobs.statistics.localisation.table import RowsWriter
from jobs.statistics.prefetch import prefetched
from jobs.statistics.question import make_question

__all__ = ["LocaliseConfig", "LocaliseResult", "localise"]
_AHEAD = 1  # blocks of masks that are read while another one is compared


@dataclass(frozen=True, kw_only=True)
class LocaliseResult:
    """What was found, and the files with it."""

    findings: LocaliseFindings
    files: LocaliseFiles


def localise(config: LocaliseConfig) -> LocaliseResult:
    """Compares the maps of a run with masks of the persons, and writes all results.

    Images of nobody known are resampled as one identity. Raises UserError on an unknown map or column, if no image is
    selected or none of them has a usable mask, and where shards may not be opened or hold other images than were mined.
    """
    make_folder(config.folder)
    with scratch_folder(config.folder, "localise") as scratch:
        measured = measure(config, scratch)
        files = write_localisation(measured.findings, measured.rows, config.folder)
    return LocaliseResult(findings=measured.findings, files=files)


@dataclass(frozen=True, kw_only=True)
class MeasuredMasks:
    """What was found, and the rows of localise.parquet, which wait in files."""

    findings: LocaliseFindings
    rows: RowsWriter


def measure(config: LocaliseConfig, scratch: Path) -> MeasuredMasks:
    """Compares maps with masks and writes nothing but files in the folder `scratch`. Raises as `localise`."""
    if config.where is not None:
        refuse_blank(config.where, "--where")
    run = open_run(config.run, evaluation=config.evaluation or config.queries)
    names = read_label_names(config.labels)
    warn_of_unfinished(run)
    question = make_question(run, by=config.by, where=config.where or "", maps=config.maps, seed=config.seed)
    chosen = choose_images(run, question, run.published())
    queries, counts = ranked_queries(run, config, len(question.maps)), MaskCounts()
    grids, rows = MapGrids.of(chosen), RowsWriter(scratch, question.maps)
    localiser = Localiser(chosen=chosen, grids=grids, scratch=scratch, rows=rows, queries=queries)
    blocks = mask_blocks(chosen, _mask_files(run, config), grids.distinct, names, counts)
    with LongTask("comparing maps with masks", len(chosen.rows), "image") as task:
        for block in prefetched(blocks, _AHEAD):
            localiser.add(block)
            task.advance(len(block.keys))
    _require_masks(run, config, counts)
    localiser.add_fixed()
    means = GroupMeans.of(chosen, localiser.sums, config.resamples, config.seed)
    looks = None if queries is None else compare_queries(queries, question.maps, config.resamples, config.seed)
    findings = LocaliseFindings(
        run=str(run.layout.root),
        question=question,
        groups=chosen.groups,
        images=counts.status[OK],
        counts=counts,
        area=means.area(),
        scores=means.scores(),
        parts=means.parts(),
        means=localiser.mean_maps(),
        queries=looks,
        resamples=config.resamples,
    )
    return MeasuredMasks(findings=findings, rows=rows)


def _mask_files(run: Run, config: LocaliseConfig) -> MaskFiles:
    if config.masks:
        return MaskFolders(config.masks)
    return ShardMasks({shard.name: shard for shard in run.manifest.shards}, config)


def _require_masks(run: Run, config: LocaliseConfig, counts: MaskCounts) -> None:
    """Raises UserError where no image has a usable mask, naming what was found instead."""
    if counts.status[OK]:
        return
    where = f"in {first_few(config.masks)}" if config.masks else "in the shards"
    if counts.status[MISSING] == counts.status.total():
        wanted = "<key>.png" if config.masks else "<key>.mask.png; give a folder of masks with --masks"
        raise UserError(
            f"{run.layout.root}: none of {counted(counts.status.total(), 'image')} has a mask {where} ({wanted}): "
            f"there is none for {first_few(counts.examples[MISSING])}"
        )
    found = [f"{counted(number, 'image')} {status}" for status, number in counts.status.most_common()]
    reasons = f" ({first_few(counts.problems)})" if counts.status[UNREADABLE] else ""
    raise UserError(f"{run.layout.root}: no mask {where} can be used: {', '.join(found)}{reasons}")
