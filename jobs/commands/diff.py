"""`promptsg diff`: what changed from one run to another over the same images (no torch)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.commands.options import HEADS_HELP, PromptsgCommand, echo, json_option, next_step, option_with_default
from jobs.comparison.config import DiffConfig
from jobs.phrases import counted
from jobs.progress import LongTask

if TYPE_CHECKING:
    from jobs.comparison.diff import DiffResult
    from jobs.comparison.findings import RunDifference
    from jobs.statistics.report.html import WithEnds

_SHOWN = ("pearson", "spearman", "top20", "moved", "com_shift", "area50_shift")
_MOST_GROUPS = 12


@click.command(name="diff", cls=PromptsgCommand)
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--by", multiple=True, help="Group by a column of RUN_A or an SQL expression [AS name]. Repeatable.")
@click.option("--where", help="SQL condition that selects images of RUN_A; `run` is the table of all.")
@click.option("--evaluation", type=click.Path(path_type=Path), help="The folder of `promptsg evaluate` of RUN_A that "
              "ap and first_rank in SQL are from.  [default: RUN_A/evaluation]")  # fmt: skip
@click.option("--map", "maps", multiple=True, help="A map of both runs; the first one orders the images. Repeatable. "
              f"{HEADS_HELP}  [default: all]")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the results.  [default: RUN_B/diff]")
@option_with_default(
    "--changed", default=DiffConfig.changed, type=click.IntRange(0), help="How many changed images to list; 0: none."
)
@option_with_default("--resamples", default=DiffConfig.resamples, type=click.IntRange(10), help="Bootstrap resamples.")
@option_with_default(
    "--seed", default=DiffConfig.seed, type=click.IntRange(0, 2**32 - 1), help="The seed of random draws."
)
@json_option
def command(
    run_a: Path,
    run_b: Path,
    by: tuple[str, ...],
    where: str | None,
    evaluation: Path | None,
    maps: tuple[str, ...],
    output: Path | None,
    changed: int,
    resamples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Say what changed from RUN_A to RUN_B, such as two checkpoints, epochs, losses or prompts, over the same images.

    Images are joined by shard and key; what has no partner is counted. Each pair of maps is compared: correlations,
    the top 20 % of patches in common, the share of mass that lies elsewhere, shifts of the centre of mass and of the
    area. Where both runs have queries, their average precision is compared too: where B looks elsewhere, does it
    retrieve better? It is that of `promptsg evaluate`, or is ranked now in the same way.

    \b
    Writes to RUN_B/diff (or --output):
      report.html      tables and figures
      diff.parquet     per image and map: <column>_pearson, _spearman, _top20, _moved, _com_shift, _com_dx, _com_dy,
                       _area50_shift
      diff.json        all numbers with their 95 % intervals over identities, and the mean maps
      changed.txt      keys of the images whose first map moved most, for `render --keys`
      queries.parquet  per query: AP of both runs and the measures; won.txt, lost.txt: keys by the change of AP

    Maps of another grid are laid by area on the cells of the coarser one. Nothing else is written to either run.

    \b
    Example:
      promptsg diff EPOCH20 EPOCH60 --by camid
      promptsg render EPOCH20 --style diff --other EPOCH60 --keys EPOCH60/diff/changed.txt --limit 20
    """
    # As in `stats`: products of small matrices run in our own threads. This must be set before numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    with LongTask("loading what computes"):
        from jobs.comparison.diff import diff_runs

    result = diff_runs(
        DiffConfig(
            run_a=run_a,
            run_b=run_b,
            by=by,
            where=where,
            evaluation=evaluation,
            maps=maps,
            output=output,
            changed=changed,
            resamples=resamples,
            seed=seed,
        )
    )
    if as_json:
        echo(result.files.numbers.read_text(encoding="utf-8"), nl=False)
    else:
        echo(describe(result))


def describe(result: DiffResult) -> str:
    """The results as lines for a terminal."""
    found = result.difference
    lines = [f"{counted(found.counts.pairs, 'pair')} of {counted(found.counts.images, 'image')} of {found.run_a}"]
    return "\n".join(
        [
            *lines,
            "",
            *_measures(found),
            "",
            *_retrieval(found),
            "",
            f"report: {result.files.report}",
            *_next_step(result),
        ]
    )


def _next_step(result: DiffResult) -> list[str]:
    """How to look at the images whose maps changed most, as the report has it too."""
    from jobs.comparison.report.page import draw_changed

    return next_step(draw_changed(result.difference, result.files.changed).words)


def _measures(found: RunDifference) -> list[str]:
    """A line per map and group; where there are many groups, the first of them."""
    labels = found.labels
    names = [f"{name}  {labels[g]}" for g in range(min(len(labels), _MOST_GROUPS)) for name in found.maps]
    width = max(map(len, names), default=8)
    lines = [f"{'map':<{width}}" + "".join(f"{head:>24}" for head in _SHOWN)]
    numbers = {(one.group, one.map, one.measure): one for one in found.statistics}
    for g in range(min(len(labels), _MOST_GROUPS)):
        for name in found.maps:
            cells = [_interval(numbers[g, name, measure]) for measure in _SHOWN]
            lines.append(f"{name + '  ' + labels[g]:<{width}}" + "".join(f"{cell:>24}" for cell in cells))
    if len(labels) > _MOST_GROUPS:
        lines.append(f"... and {counted(len(labels) - _MOST_GROUPS, 'more group')}")
    return lines


def _retrieval(found: RunDifference) -> list[str]:
    if found.retrieval is None:
        return [f"average precision is not known: {found.no_retrieval}"]
    one = found.retrieval
    return [
        f"{counted(one.queries, 'query', 'queries')} with a match in both runs: mAP {_interval(one.map_a)} to "
        f"{_interval(one.map_b)}, change {_interval(one.change)}",
        f"AP rose in {len(one.won):,} and fell in {len(one.lost):,}; the first image became right in "
        f"{one.rank1_won:,} and wrong in {one.rank1_lost:,}",
        *(
            f"change of AP with the mass of {line.map} that lies elsewhere: Spearman "
            f"{_bracketed(line.spearman, line.spearman_low, line.spearman_high)}"
            for line in one.correlations
            if line.measure == "moved"
        ),
    ]


def _interval(one: WithEnds) -> str:
    return _bracketed(one.value, one.low, one.high)


def _bracketed(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")
