"""`promptsg localise`: are the maps on the persons? Attention against masks, with intervals (no torch)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.commands.options import (
    HEADS_HELP,
    PromptsgCommand,
    allow_pipes_option,
    allow_remote_option,
    echo,
    evaluation_option,
    json_option,
    option_with_default,
    run_argument,
    shards_root_option,
)
from jobs.phrases import counted
from jobs.progress import LongTask
from jobs.statistics.localisation.config import LocaliseConfig

if TYPE_CHECKING:
    from jobs.statistics.localisation.findings import LocaliseFindings
    from jobs.statistics.localisation.localise import LocaliseResult
    from jobs.statistics.report.with_interval import WithInterval

_COLUMNS = {"ratio": "mass / area", "pointing": "pointing", "auc": "AUC"}


@click.command(name="localise", cls=PromptsgCommand)
@run_argument
@click.option("--masks", multiple=True, type=click.Path(path_type=Path), help="A folder with <key>.png. Repeatable: "
              "the first that has the file counts.  [default: <key>.mask.png in the shards]")  # fmt: skip
@click.option("--labels", type=click.Path(path_type=Path), help="Names of the labels: a JSON list or object, a CSV "
              "with the columns label,name, or a name a line, from label 0.")  # fmt: skip
@click.option("--by", multiple=True, help="Group by a metadata column or an SQL expression [AS name]. Repeatable.")
@click.option("--where", help="SQL condition that selects images; `run` is the table of all.")
@evaluation_option
@click.option("--map", "maps", multiple=True, help=f"A map of the run; repeatable. {HEADS_HELP}  [default: all]")
@click.option("--queries", type=click.Path(path_type=Path), help="The queries.parquet of `promptsg evaluate`.  "
              "[default: the one in RUN/evaluation, if it is there]")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the results.  [default: RUN/localise]")
@option_with_default(
    "--resamples", default=LocaliseConfig.resamples, type=click.IntRange(10), help="Bootstrap resamples."
)
@option_with_default(
    "--seed", default=LocaliseConfig.seed, type=click.IntRange(0, 2**32 - 1), help="The seed of random draws."
)
@shards_root_option
@allow_remote_option
@allow_pipes_option
@json_option
def command(as_json: bool, **values: object) -> None:
    """Say how well the maps of RUN lie on the persons, by masks of them: the share of the mass on the person and on
    each part, the pointing game and AUC, beside what fixed maps score.

    A mask is a PNG whose pixels are labels, grey or with a palette, as human parsing tools write them: 0 is the
    background, all others are the person. It may have any size, since it shows the whole image. Images without a mask,
    or with one that shows nobody, are left out and counted.

    \b
    Writes to RUN/localise (or --output):
      localise.parquet  per image: the person's share of the area; per map its mass on the person and on each part,
                        ratio, pointing and AUC
      localise.json     all numbers per group, with 95 % intervals over identities
      report.html       the same to read, with figures

    After `promptsg evaluate` it also says whether failed queries look at the background.

    \b
    Example:
      promptsg localise RUN --by camid
      promptsg localise RUN --masks parsing/ --labels names.txt --where "split = 'query'"
    """

    with LongTask("loading what computes"):
        from jobs.statistics.localisation.localise import localise

    result = localise(LocaliseConfig(**values))  # type: ignore[arg-type]
    if as_json:
        echo(result.files.numbers.read_text(encoding="utf-8"), nl=False)
    else:
        echo(describe(result))


def describe(result: LocaliseResult) -> str:
    """The scores for a terminal, what is odd in the masks, failed queries, and where the results are."""
    from jobs.statistics.localisation.report.page import failures_line, mask_lines

    found = result.findings
    lines = [*_tables(found), *mask_lines(found.counts)]
    lines += [failures_line(look) for look in found.queries or () if look.measure == "on_person"]
    if found.queries is None:
        lines.append("whether failed queries look at the background: run `promptsg evaluate` first")
    return "\n".join([*lines, f"{counted(found.images, 'image')} with a mask: {result.files.report}"])


def _tables(found: LocaliseFindings) -> list[str]:
    """Of each group: how well each map lies on the persons, beside what fixed maps score."""
    lines: list[str] = []
    width = max(len(one.name) for one in found.scores) + 2
    for group, label in enumerate(found.labels):
        title = f"On the persons' masks, {label} (mean over images, 95 % interval over identities):"
        lines += [title, f"{'':<{width}}" + "".join(f"{title:>22}" for title in _COLUMNS.values())]
        for one in found.of_group(group):
            cells = [_cell(getattr(one, measure)) for measure in _COLUMNS]
            lines.append(f"{one.name:<{width}}" + "".join(f"{cell:>22}" for cell in cells))
        lines.append("")
    return lines


def _cell(estimate: WithInterval) -> str:
    if estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
