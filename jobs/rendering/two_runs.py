"""The rows of one run that another run has maps of too, joined by shard and key (no torch)."""

from __future__ import annotations

import pyarrow as pa

from jobs.rendering.drawing.style import OtherRun
from jobs.runs.rows.lookup import rows_by_key
from jobs.runs.run import Run


def other_run(other: Run) -> OtherRun:
    """What drawing needs to know of run B."""
    return OtherRun(root=other.layout.root, fingerprint=other.manifest.fingerprint, placement=other.manifest.placement)


def rows_in_both(table: pa.Table, other: Run) -> tuple[pa.Table, pa.Table]:
    """The rows of a table of metadata that the other run has maps of, and that run's rows in the same order."""
    place, found = _places(table, other)
    kept = [n for n, at in enumerate(place) if at is not None]
    return table.take(pa.array(kept, pa.int64())), found.take(
        pa.array([at for at in place if at is not None], pa.int64())
    )


def is_in_both(table: pa.Table, other: Run) -> list[bool]:
    """(N,) whether the other run has maps of each row's image."""
    return [at is not None for at in _places(table, other)[0]]


def _places(table: pa.Table, other: Run) -> tuple[list[int | None], pa.Table]:
    """(N,) where the image of each row is in a table of the other run's rows, None where it is not; and the table."""
    done = set(other.published())
    ids = list(zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True))
    found = rows_by_key(other, {id for id in ids if id[0] in done})
    place = {id: n for n, id in enumerate(zip(found["shard"].to_pylist(), found["key"].to_pylist(), strict=True))}
    return [place.get(id) for id in ids], found
