"""One picture that is to be drawn, and images that cannot be drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RankedHit:
    """One image of a ranked list; `correct` says whether it shows the query's identity."""

    distance: float
    correct: bool


@dataclass(frozen=True, kw_only=True)
class PictureJob:
    """One picture: its path below the output folder, and the rows that it shows.

    Rows are numbers of rows of the plan's table, later of the chunk that the job is in. `map` is the one map that is
    shown, None for all. In a ranked list the first row is the query, and the others have `hits`; `note` is about the
    query. `identity` is who an identity page shows, such as `pid 12`. `number` is the place in the requested order,
    from 1, None without one.
    """

    name: str
    rows: tuple[int, ...]
    map: str | None = None
    hits: tuple[RankedHit, ...] = ()
    note: str = ""
    identity: str = ""
    number: int | None = None


@dataclass(frozen=True)
class LeftOut:
    """An image, or a map of it, that cannot be drawn, and why."""

    key: str
    reason: str
