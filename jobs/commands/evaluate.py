"""`promptsg evaluate`: retrieval from a run's stored features, and what AP correlates with (no torch)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.commands.options import (
    PromptsgCommand,
    echo,
    json_option,
    next_step,
    option_group,
    option_with_default,
    run_argument,
)
from jobs.errors import UserError
from jobs.phrases import counted
from jobs.progress import LongTask
from jobs.retrieval.evaluation import EvaluateConfig, Evaluation
from jobs.retrieval.rerank import RerankConfig

if TYPE_CHECKING:
    from jobs.retrieval.correlates import Correlation
    from jobs.retrieval.scores import RetrievalScores

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_CMC_SHOWN = (1, 5, 10, 20)
_MANY_PAIRS, _WORST_PAIRS = 30, 10  # Market-1501 has 30, MSMT17 has 210


def _rerank(rerank: bool, k1: int, k2: int, weight: float) -> RerankConfig | None:
    return RerankConfig(k1=k1, k2=k2, weight=weight) if rerank else None


_rerank_options = option_group(
    "rerank",
    _rerank,
    click.option("--rerank", is_flag=True, help="Re-rank by k-reciprocal encoding (Zhong et al. 2017)."),
    option_with_default(
        "--k1", type=click.IntRange(1), default=RerankConfig.k1, help="Reciprocal neighbours of --rerank."
    ),
    option_with_default(
        "--k2", type=click.IntRange(1), default=RerankConfig.k2, help="Encodings that --rerank averages."
    ),
    option_with_default(
        "--lambda",
        "weight",
        type=click.FloatRange(0, 1),
        default=RerankConfig.weight,
        help="Weight of the plain distance in --rerank.",
    ),
)


@click.command(name="evaluate", cls=PromptsgCommand)
@run_argument
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the results.  [default: RUN/evaluation]")
@option_with_default("--query-where", default=EvaluateConfig.query_where, help="SQL over the metadata's columns.")
@option_with_default("--gallery-where", default=EvaluateConfig.gallery_where, help="The same for the gallery.")
@click.option("--keep-same-camera", is_flag=True, help="Rank also a query's images of its own camera, but for itself.")
@option_with_default(
    "--topk", type=click.IntRange(1), default=EvaluateConfig.topk, help="Nearest images kept per query."
)
@_rerank_options
@option_with_default(
    "--memory",
    default=f"{EvaluateConfig.memory // _UNITS['GB']}GB",
    help="The most memory to use. It decides how many queries are ranked at once.",
)
@click.option("--block", type=click.IntRange(1), help="Rank this many queries at once, and ignore --memory.")
@option_with_default(
    "--bootstrap", type=click.IntRange(1), default=EvaluateConfig.bootstrap, help="Samples of the intervals."
)
@option_with_default("--seed", type=click.IntRange(0), default=EvaluateConfig.seed, help="The seed of the samples.")
@click.option(
    "--per-camera", is_flag=True, help="Also print the scores of each pair of cameras; metrics.json has them."
)
@json_option
def command(
    run: Path,
    output: Path | None,
    query_where: str,
    gallery_where: str,
    keep_same_camera: bool,
    topk: int,
    rerank: RerankConfig | None,
    memory: str,
    block: int | None,
    bootstrap: int,
    seed: int,
    per_camera: bool,
    as_json: bool,
) -> None:
    """Rank RUN's gallery for each of its queries: mAP, mINP and CMC, overall and per camera pair, and what AP
    correlates with.

    \b
    Writes to RUN/evaluation (or --output):
      metrics.json     all that is printed, CMC to rank 50
      queries.parquet  per query: AP, INP, rank of the first hit, the nearest images and whether each is right
      failures.txt     keys of the queries whose first image is wrong, worst AP first
      why.csv          correlation of AP with where each map looks, with 95 % intervals over identities

    Then `render`, `gallery`, `stats` and others know the columns ap and first_rank in SQL.

    The memory holds the features and one block of distances, never all distances: Market-1501 (3,368 x 15,913) takes
    0.5 GB, 20,000 x 200,000 fits in the default. --rerank also holds each image's neighbours, at most 36 KB per image
    with the default k1 and k2. If that is more than --memory, the error names what it needs.

    \b
    Example:
      promptsg evaluate RUN --query-where "split = 'query' AND camid < 3"
    """
    with LongTask("loading what computes"):
        from jobs.retrieval.evaluate import evaluate

    config = EvaluateConfig(
        run=run,
        output=output,
        query_where=query_where,
        gallery_where=gallery_where,
        keep_same_camera=keep_same_camera,
        topk=topk,
        memory=parse_memory(memory),
        block=block,
        rerank=rerank,
        bootstrap=bootstrap,
        seed=seed,
    )
    evaluation = evaluate(config)
    if as_json:
        echo(evaluation.files.metrics.read_text(encoding="utf-8"), nl=False)
    else:
        echo(describe(evaluation, per_camera=per_camera))


def parse_memory(text: str) -> int:
    """`2GB`, `512 MiB` or a number of bytes -> bytes. Raises UserError naming the units."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if found is None or found[2].upper() not in _UNITS:
        raise UserError(f"--memory {text!r} is not a size such as 2GB; units are B, KB, MB, GB, KiB, MiB, GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def describe(evaluation: Evaluation, *, per_camera: bool = False) -> str:
    """The results as lines for a terminal, the overall scores last. `per_camera` adds those of each pair of cameras, or
    of the worst where there are many.
    """
    files = evaluation.files
    lines = [*_counts(evaluation), "", *_correlations(evaluation.correlations), ""]
    lines += [*_camera_pairs(evaluation), ""] if per_camera else []
    wrong = counted(evaluation.wrong_rank1, "query has", "queries have")
    lines += [f"{wrong} a wrong first image: {files.failures}", f"per query: {files.queries}", ""]
    lines += [*_next_step(evaluation), ""] if evaluation.wrong_rank1 else []
    lines += [f"warning: {evaluation.near_parallel}", ""] if evaluation.near_parallel else []
    heads, row = _heads("queries"), f"{evaluation.scores.queries:>12} {_percents(evaluation.scores)}"
    return "\n".join([*lines, heads, row])


def _next_step(evaluation: Evaluation) -> list[str]:
    """How to look at the queries that are wrong."""
    from jobs.statistics.report.draw_command import DrawCommand

    failures = evaluation.files.failures
    draw = DrawCommand(
        run=evaluation.config.run,
        keys=failures,
        option="--queries",
        output=failures.parent / "ranked",
        style="ranked",
        limit=20,
    )
    return next_step(draw.words)


def _counts(evaluation: Evaluation) -> list[str]:
    queries, gallery = evaluation.queries, evaluation.gallery
    unknown = counted(queries.without_label, "query", "queries"), counted(gallery.without_label, "gallery image")
    left_out = [
        f"{counted(evaluation.queries_without_match, 'query', 'queries')} without a match",
        f"{unknown[0]} and {unknown[1]} without pid or camid",
        counted(gallery.junk, "junk image"),
    ]
    lines = [
        f"{evaluation.config.run}: {counted(evaluation.scores.queries, 'query', 'queries')}, "
        f"{counted(gallery.ranked, 'gallery image')}, "
        f"features of {evaluation.feature_width}" + (", re-ranked" if evaluation.config.rerank else ""),
        f"left out: {', '.join(left_out)}",
    ]
    if gallery.distractors:
        lines.append(
            f"{counted(gallery.distractors, 'gallery image is a distractor', 'gallery images are distractors')}"
        )
    if count := evaluation.queries_only_in_own_camera:
        lines.append(
            f"{counted(count, 'query', 'queries')} without a match: the gallery shows the person in the query's own "
            "camera only, and images of the same camera are left out; --keep-same-camera ranks them"
        )
    return lines


def _heads(first: str) -> str:
    """The heads of a table of scores."""
    scores = " ".join(f"{head:>6}" for head in ("mAP", "mINP", *(f"R{rank}" for rank in _CMC_SHOWN)))
    return f"{first:>12} {scores}  in %"


def _camera_pairs(evaluation: Evaluation) -> list[str]:
    lines = ["cameras: of the query -> of the gallery, numbered from 0", _heads("")]
    pairs = list(evaluation.camera_pairs)
    if len(pairs) > _MANY_PAIRS:
        lines.append(f"the {_WORST_PAIRS} camera pairs of lowest mAP, of {len(pairs)}:")
        known = [(pair.scores.mAP, pair) for pair in pairs if pair.scores.mAP is not None]
        pairs = [pair for _, pair in sorted(known, key=lambda entry: entry[0])[:_WORST_PAIRS]]
    for pair in pairs:
        name = f"{pair.query_camid} -> {pair.gallery_camid}"
        lines.append(f"{name:>12} {_percents(pair.scores)}  {counted(pair.scores.queries, 'query', 'queries')}")
    return lines


def _percents(scores: RetrievalScores) -> str:
    values = [scores.mAP, scores.mINP, *(scores.cmc[rank - 1] for rank in _CMC_SHOWN)]
    return " ".join(f"{'-' if value is None else f'{100 * value:.2f}':>6}" for value in values)


def _correlations(found: tuple[Correlation, ...]) -> list[str]:
    width = max((len(line.map) for line in found), default=8)
    lines = [f"{'Correlation of AP with':<{width + 12}} {'queries':>8} {'Spearman [95 %]':>24} {'Pearson [95 %]':>24}"]
    for line in found:
        if line.spearman is None and line.pearson is None:  # the mass of an attention map, the same for all images
            continue
        spearman = _with_interval(line.spearman, line.spearman_low, line.spearman_high)
        pearson = _with_interval(line.pearson, line.pearson_low, line.pearson_high)
        lines.append(f"{line.map:<{width}} {line.measure:<11} {line.queries:>8} {spearman:>24} {pearson:>24}")
    return lines


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:+.3f}" + ("" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]")
