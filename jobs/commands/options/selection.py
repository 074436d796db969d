"""Options that choose rows of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from jobs.commands.options.declared import F, option_group, option_with_default
from jobs.reading import reading
from jobs.runs.query import RowSelection
from jobs.runs.query_list import read_csv_keys, read_keys
from jobs.text_files import read_text

_KEYS = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


def selection_options(*, limit: int | None = None, keys: bool = True) -> Callable[[F], F]:
    """Which rows of a run: `selection`, a RowSelection. `limit` is the default of --limit."""
    most = "Use at most this many images, after sorting."
    options = [
        click.option("--where", help="SQL over the metadata's columns, such as 'pid = 12 AND camid = 3'; after "
                     "`promptsg evaluate` also over ap and first_rank of queries."),
        click.option("--order-by", help="SQL, such as 'mim_attention_entropy DESC' or ap."),
        click.option("--limit", type=click.IntRange(1), default=limit, show_default=limit is not None, help=most),
        click.option("--sample", type=click.IntRange(1), help="Draw this many of the images at random."),
        option_with_default("--seed", type=click.IntRange(0), default=0, help="The seed of random draws."),
    ]  # fmt: skip
    if keys:
        told = "A file with a key on each line, or a .csv with a column key; - is standard input."
        options.append(click.option("--keys", type=_KEYS, help=told))
    return option_group("selection", _selection, *options)


def _selection(
    where: str | None,
    order_by: str | None,
    limit: int | None,
    sample: int | None,
    seed: int,
    keys: Path | None = None,
) -> RowSelection:
    listed = None if keys is None else _listed_keys(keys)
    return RowSelection(where=where, order_by=order_by, limit=limit, sample=sample, seed=seed, keys=listed)


def _listed_keys(file: Path) -> tuple[str, ...]:
    if file.name.endswith(".csv"):
        return tuple(read_csv_keys(read_text(file).splitlines(keepends=True), str(file)))
    if file.name != "-":
        return tuple(read_keys(read_text(file).splitlines()))
    with reading(file, "the keys of standard input", "give UTF-8 text"):
        return tuple(read_keys(click.open_file("-", encoding="utf-8")))
