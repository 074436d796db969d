"""What changed from one run to another over the same images, and whether it helped (no torch, no model)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from jobs.atomic import make_folder
from jobs.comparison.accumulate import accumulate_pairs, stored_columns
from jobs.comparison.config import DiffConfig
from jobs.comparison.findings import RunDifference, map_notes, pairing_notes, summarise_pairs
from jobs.comparison.pairing import PairCounts, Pairing
from jobs.comparison.query_scores import BothScores, scores_of_both
from jobs.comparison.report.files import DiffFiles, write_difference
from jobs.comparison.retrieval_change import queries_by_shard, retrieval_change
from jobs.errors import UserError
from jobs.identity import NOBODY
from jobs.phrases import counted, first_few
from jobs.runs.metadata_sql import refuse_blank
from jobs.runs.query import warn_of_unfinished
from jobs.runs.run import Run, open_run
from jobs.statistics.chosen import choose_images
from jobs.statistics.question import make_question

__all__ = ["DiffConfig", "DiffResult", "diff_runs"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DiffResult:
    """What was found, and where it is written."""

    difference: RunDifference
    files: DiffFiles


def diff_runs(config: DiffConfig) -> DiffResult:
    """Compares all maps that two runs share, image by image, and writes the results.

    Neither run is written to, but for the folder of the results. Raises UserError where the runs share no map or no
    image, on an unknown map or column, and on files that are damaged.

    >>> found = diff_runs(DiffConfig(run_a=Path("EPOCH20"), run_b=Path("EPOCH60"))).difference
    >>> found.statistic("mim_attention", "pearson").value
    0.71
    """
    if config.where is not None:
        refuse_blank(config.where, "--where")
    a, b = open_run(config.run_a, evaluation=config.evaluation), open_run(config.run_b)
    for run in (a, b):
        warn_of_unfinished(run)
    maps = a.shared_maps(b, config.maps)
    question = make_question(a, by=config.by, where=config.where or "", maps=maps, seed=config.seed)
    scores, problem = _known_scores(a, b, config.memory)
    chosen = choose_images(a, question, a.published())
    make_folder(config.folder)
    files = DiffFiles.in_folder(config.folder)
    pairing = Pairing(a, b, stored_columns(maps))
    wanted = {} if scores is None else queries_by_shard(scores.joined)
    sums = accumulate_pairs(chosen, pairing, files.table, wanted, config.changed)
    counts = pairing.finish(shard for shard, _ in chosen.spans())
    _require_pairs(a, b, counts)
    statistics, differences = summarise_pairs(sums, config.resamples)
    retrieval = None
    if scores is not None:
        retrieval = retrieval_change(scores, sums.queries, maps, resamples=config.resamples, seed=config.seed)
    groups = chosen.groups.num_rows
    found = RunDifference(
        run_a=str(a.layout.root),
        run_b=str(b.layout.root),
        question=question,
        groups=chosen.groups,
        pairs=np.bincount(chosen.group, weights=sums.cluster_pairs, minlength=groups).astype(np.int64),
        identities=np.bincount(chosen.group[(chosen.identity != NOBODY) & (sums.cluster_pairs > 0)], minlength=groups),
        counts=counts,
        notes=(*pairing_notes(counts), *_placement_notes(a, b), *map_notes(differences)),
        statistics=tuple(statistics),
        maps=differences,
        changed=sums.changed,
        retrieval=retrieval,
        no_retrieval=problem,
        resamples=config.resamples,
    )
    for note in found.notes:
        logger.warning("%s", note)
    write_difference(found, files)
    return DiffResult(difference=found, files=files)


def _known_scores(a: Run, b: Run, memory: int) -> tuple[BothScores | None, str | None]:
    """AP of queries of both runs, or why it is not known: a run may hold training images alone, and no queries."""
    try:
        scores = scores_of_both(a, b, memory)
    except UserError as error:
        return None, str(error)
    return (scores, None) if len(scores.joined) else (None, "no query has a match in both runs")


def _require_pairs(a: Run, b: Run, counts: PairCounts) -> None:
    if counts.pairs:
        return
    if counts.other_shard:
        raise UserError(
            f"no image of {a.layout.root} is in a shard of the same name of {b.layout.root}, though "
            f"{counted(counts.other_shard, 'key is', 'keys are')} in others ({first_few(counts.other_shard_keys)}): "
            "mine both from "
            "the same shards"
        )
    raise UserError(
        f"{a.layout.root} and {b.layout.root} have no image in common: {counts.missing:,} of A are not in B "
        f"({first_few(counts.missing_keys)}), {counted(counts.failed, 'has', 'have')} no maps there"
    )


def _placement_notes(a: Run, b: Run) -> list[str]:
    """Where the stored centres of mass were measured by two rules."""
    rules = {run.manifest.measured_placement is None for run in (a, b)}
    overlap = [run for run in (a, b) if run.manifest.placement is not None and not run.manifest.placement.is_even]
    if len(rules) == 1 or not overlap:
        return []
    return ["an earlier version measured one run's centres of mass as if its overlapping patches were equal cells"]
