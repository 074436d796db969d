"""Where the model looks, per group of images, with bootstrap intervals over identities (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.atomic import make_folder, write_whole
from jobs.errors import UserError
from jobs.launch.split import block_of
from jobs.phrases import counted, first_few
from jobs.processes import available_cores
from jobs.runs.evaluation.query_scores import scores_digest
from jobs.runs.metadata_sql import refuse_blank
from jobs.runs.query import warn_of_unfinished
from jobs.runs.run import Run, open_run
from jobs.statistics.accumulate import accumulate
from jobs.statistics.agreement import agreements
from jobs.statistics.chosen import ChosenImages, choose_images, choose_in_blocks
from jobs.statistics.config import ShardBlock, StatsConfig
from jobs.statistics.consistency import consistency
from jobs.statistics.outliers import find_outliers
from jobs.statistics.parts.merge import PartsError, merge_all
from jobs.statistics.parts.partial import Partial
from jobs.statistics.parts.partial_file import load_partial, save_partial
from jobs.statistics.question import make_question
from jobs.statistics.report.files import StatsFiles, write_findings
from jobs.statistics.report.findings import Findings
from jobs.statistics.report.outliers import DrawnOutliers, OutlierDrawer
from jobs.statistics.stored import stored_columns
from jobs.statistics.summary import summarise

__all__ = ["ShardBlock", "StatsConfig", "StatsResult", "stats"]
_MOST_THREADS = 4  # more of them would wait for the disk


@dataclass(frozen=True, kw_only=True)
class StatsResult:
    """How many images were measured, and the results: the path of a part, or findings and their files.

    `drawn` are the pictures of outliers in the report, None where nobody drew them.
    """

    images: int
    shards: int
    part: Path | None = None
    findings: Findings | None = None
    files: StatsFiles | None = None
    drawn: DrawnOutliers | None = None


def stats(config: StatsConfig, drawer: OutlierDrawer | None = None) -> StatsResult:
    """Measures the maps of a run, or merges parts, and writes all results; with `config.block` only a part.

    With a `drawer`, such as `jobs.rendering.thumbnails.OutlierThumbnails`, the report shows the outliers.
    Raises UserError on an unknown map or column, if no image is selected, or on parts that do not belong together.
    """
    if config.where is not None:
        refuse_blank(config.where, "--where")
    run = open_run(config.run, evaluation=config.evaluation)
    warn_of_unfinished(run)
    if config.parts:
        part = merge_parts(run, config.parts)
        chosen = choose_in_blocks(run, part.question, part.shards)  # only the outliers need a second look at the images
    else:
        question = make_question(
            run, by=config.by, where=config.where or "", maps=config.maps, seed=config.seed, sample=config.sample
        )
        images = choose_images(run, question, block_shards(run, config.block), stored_columns(run, question.maps))
        chosen, part = iter([images]), accumulate(images)
    count, shards = int(part.images.sum()), len(part.shards)
    if config.block is not None:
        return StatsResult(images=count, shards=shards, part=save_part(part, config.folder, config.block))
    if not count:
        raise UserError("the parts contain no image")
    findings = compute_findings(run, part, chosen, config)
    drawn = None
    if drawer is not None and findings.outliers:
        drawn = drawer.draw(run, findings.outliers, part.question.maps[0])
    files = write_findings(findings, config.folder, drawn)
    return StatsResult(images=count, shards=shards, findings=findings, files=files, drawn=drawn)


def block_shards(run: Run, block: ShardBlock | None) -> list[str]:
    """The finished shards, or those of a block of the run's full list.

    A block's sums are kept and merged later, when a shard of which now only the first images are there may be done.
    """
    names, done = [shard.name for shard in run.manifest.shards], set(run.published())
    if block is not None:
        names = [names[position] for position in block_of(len(names), block.index, block.count)]
        done -= run.layout.begun
    return sorted(name for name in names if name in done)


def compute_findings(run: Run, part: Partial, chosen: Iterator[ChosenImages], config: StatsConfig) -> Findings:
    """All results from the sums over the chosen images, which are taken block by block."""
    question, threads = part.question, min(_MOST_THREADS, available_cores())
    return Findings(
        run=str(run.layout.root),
        part=part,
        summary=summarise(part, config.resamples),
        agreement=agreements(part, config.resamples),
        consistency=consistency(part.sample, question.maps, question.seed),
        outliers=find_outliers(run, chosen, part, config.outliers, threads),
        resamples=config.resamples,
    )


def save_part(part: Partial, folder: Path, block: ShardBlock) -> Path:
    """Writes a block's part; returns its path."""
    path = folder / "parts" / f"part-{block.index:05d}-of-{block.count:05d}.npz"
    make_folder(path.parent)
    write_whole(path, save_partial(part))
    return path


def merge_parts(run: Run, paths: Sequence[Path]) -> Partial:
    """The parts of one question about this run as one. Raises UserError on parts of another run, or missing ones."""
    try:
        total = merge_all([_part_of(run, path) for path in paths])
    except PartsError as error:
        raise UserError(f"cannot merge {first_few(paths)}: {error}") from error
    if total is None:
        raise UserError("no parts are given to merge")
    if missing := set(run.published()) - run.layout.begun - set(total.shards):
        raise UserError(
            f"{counted(len(missing), 'shard is', 'shards are')} in no part, such as {min(missing)}: give every "
            "block's file"
        )
    return total


def _part_of(run: Run, path: Path) -> Partial:
    part = load_partial(path)
    if part.question.fingerprint != run.manifest.fingerprint:
        raise UserError(f"{path} is not a part of the run {run.layout.root}")
    expressions = [part.question.where, *(key.expression for key in part.question.by)]
    if part.question.scores != scores_digest(run, expressions):
        raise UserError(f"{path} is from before the last `promptsg evaluate`: make the part again")
    return part
