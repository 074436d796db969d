"""Where the model looks, per group of images, with bootstrap intervals over identities (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.atomic import make_folder, write_whole
from jobs.errors import UserError
from jobs.launch.split import block_of
from jobs.processes import available_cores
from jobs.runs.run import Run, open_run
from jobs.statistics.accumulate import accumulate
from jobs.statistics.agreement import agreements
from jobs.statistics.chosen import ChosenImages, choose_images
from jobs.statistics.consistency import consistency
from jobs.statistics.outliers import find_outliers
from jobs.statistics.parts.merge import merge
from jobs.statistics.parts.partial import Partial
from jobs.statistics.parts.partial_file import load_partial, save_partial
from jobs.statistics.question import make_question
from jobs.statistics.report.files import StatsFiles, write_findings
from jobs.statistics.report.findings import Findings
from jobs.statistics.stored import stored_columns
from jobs.statistics.summary import summarise

_MOST_THREADS = 4  # more of them would wait for the disk


@dataclass(frozen=True)
class ShardBlock:
    """The block `index`, from 0, of `count` contiguous blocks of a run's shards."""

    index: int
    count: int


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """What to compute of which run, and where the results go.

    by: columns or SQL expressions over one row, each with an optional `AS name`. where: an SQL condition that selects
    images. maps: names; () is all of the run. output: a folder; None is RUN/stats. outliers: how many images to list.
    sample: about how many images are compared in pairs. resamples, seed: of the bootstrap; seed also of the sample.

    block: compute the sums of this block of shards only, and save them as a part. parts: files of such parts; their
    question is answered from them, so that by, where, maps and block must not be given.

    Raises UserError where both are.
    """

    run: Path
    by: tuple[str, ...] = ()
    where: str | None = None
    maps: tuple[str, ...] = ()
    output: Path | None = None
    outliers: int = 50
    sample: int = 20_000
    resamples: int = 1000
    seed: int = 0
    block: ShardBlock | None = None
    parts: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.parts and (self.by or self.where or self.maps or self.block):
            raise UserError("--merge takes the question from the parts: leave out --by, --where, --map and --block")

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.output or self.run / "stats"


@dataclass(frozen=True, kw_only=True)
class StatsResult:
    """How many images were measured, and the results: the path of a part, or findings and their files."""

    images: int
    shards: int
    part: Path | None = None
    findings: Findings | None = None
    files: StatsFiles | None = None


def stats(config: StatsConfig) -> StatsResult:
    """Measures the maps of a run, or merges parts, and writes all results; with `config.block` only a part.

    Raises UserError on an unknown map or column, if no image is selected, or on parts that do not belong together.
    """
    run = open_run(config.run)
    if config.parts:
        part = merge_parts(run, config.parts)
        # Only the outliers need a second look at the images.
        chosen = choose_images(run, part.question, part.shards) if config.outliers else None
    else:
        question = make_question(
            run, by=config.by, where=config.where or "", maps=config.maps, seed=config.seed, sample=config.sample
        )
        chosen = choose_images(run, question, block_shards(run, config.block), stored_columns(run, question.maps))
        part = accumulate(chosen)
    images, shards = int(part.images.sum()), len(part.shards)
    if config.block is not None:
        return StatsResult(images=images, shards=shards, part=save_part(part, config.folder, config.block))
    if not images:
        raise UserError("the parts contain no image")
    findings = compute_findings(run, part, chosen, config)
    files = write_findings(findings, config.folder)
    return StatsResult(images=images, shards=shards, findings=findings, files=files)


def block_shards(run: Run, block: ShardBlock | None) -> list[str]:
    """The finished shards, or those of a block of the run's full list."""
    names, done = [shard.name for shard in run.manifest.shards], run.layout.done()
    if block is not None:
        names = [names[position] for position in block_of(len(names), block.index, block.count)]
    return sorted(name for name in names if name in done)


def compute_findings(run: Run, part: Partial, chosen: ChosenImages | None, config: StatsConfig) -> Findings:
    """All results from the sums over the chosen images, without outliers where these are not known."""
    question, threads = part.question, min(_MOST_THREADS, available_cores())
    return Findings(
        run=str(run.layout.root),
        part=part,
        summary=summarise(part, config.resamples),
        agreement=agreements(part, config.resamples),
        consistency=consistency(part.sample, question.maps, question.seed),
        outliers=find_outliers(chosen, part, config.outliers, threads) if chosen is not None else [],
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
    total: Partial | None = None
    for path in paths:
        part = load_partial(path)
        if part.question.fingerprint != run.manifest.fingerprint:
            raise UserError(f"{path} is not a part of the run {run.layout.root}")
        total = part if total is None else merge(total, part)
    if total is None:
        raise UserError("no parts are given to merge")
    if missing := run.layout.done() - set(total.shards):
        raise UserError(f"{len(missing)} shards are in no part, such as {min(missing)}: give every block's file")
    return total
