"""What is computed of a run: groups, a condition, maps, and the size of the sample that pairs of maps come from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jobs.errors import UserError
from jobs.runs.evaluation.query_scores import scores_digest
from jobs.runs.run import Run
from jobs.statistics.expressions import check_expressions, count_images

# Columns of the results, which a group's name must not repeat.
_RESERVED = frozenset({"map", "map_a", "map_b", "measure", "value", "low", "high", "n_images", "n_identities"})
_NAMED = re.compile(r"(.+?)\s+AS\s+(\w+)", re.IGNORECASE | re.DOTALL)


class GroupKey(NamedTuple):
    """One column to group by: its name in the results, and an SQL expression over one row."""

    name: str
    expression: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is computed of a run. Parts of one question can be merged.

    `where` is an SQL condition, empty for all images. `fraction` of the identities is kept whole as a sample for what
    compares pairs of maps. `fingerprint` is the run's. `scores` is the SHA-256 of the queries.parquet whose `ap` or
    `first_rank` an expression names, else empty.
    """

    by: tuple[GroupKey, ...]
    where: str
    maps: tuple[str, ...]
    seed: int
    fraction: float
    fingerprint: str
    scores: str = ""


def make_question(
    run: Run, *, by: Sequence[str] = (), where: str = "", maps: Sequence[str] = (), seed: int = 0, sample: int = 20_000
) -> Question:
    """The question about a run.

    `by` are columns or SQL expressions over one row, each with an optional `AS name`. No `maps` means all of the run.
    About `sample` images are kept for what compares pairs of maps.

    Raises UserError on an unknown map or column, and if no image is selected.
    """
    chosen = run.choose_maps(maps)
    keys = tuple(_group_key(text) for text in by)
    names = [key.name for key in keys]
    for name in names:
        if names.count(name) > 1 or name in _RESERVED:
            raise UserError(f"--by: the column {name!r} is taken; give this expression another name with AS")
    check_expressions(run, [key.expression for key in keys], where)
    count = count_images(run, where)
    if not count:
        raise UserError(f"no image of {run.layout.root} is selected{f' by --where {where!r}' if where else ''}")
    return Question(
        by=keys,
        where=where,
        maps=chosen or run.maps,
        seed=seed,
        fraction=min(1.0, sample / count),
        fingerprint=run.manifest.fingerprint,
        scores=scores_digest(run, [where, *(key.expression for key in keys)]),
    )


def _group_key(text: str) -> GroupKey:
    found = _NAMED.fullmatch(text.strip())
    return GroupKey(found[2], found[1]) if found else GroupKey(text.strip(), text)
