"""The samples of a batch as columns, a list for each field, which is cheap to send and to store (no torch)."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, TypeVar

from jobs.identity import Role
from jobs.shards.samples import Sample


@dataclass(frozen=True, kw_only=True)
class SampleColumns:
    """N samples in tar order: each field is the column of `Sample`'s field of that name, N values long.

    `status` and `error` change while a batch is mined, and only through `mark` and `mark_as`. Iterating gives copies,
    as `Sample`s.
    """

    key: list[str]
    tar_index: list[int]
    status: list[str]
    error: list[str | None]
    pid: list[int | None]
    role: list[Role | None]
    identity: list[str | None]
    camid: list[int | None]
    seq: list[int | None]
    frame: list[int | None]
    split: list[str | None]
    width: list[int | None]
    height: list[int | None]
    image_offset: list[int | None]
    image_size: list[int | None]
    image_crc32: list[int | None]
    caption: list[str | None]

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> SampleColumns:
        """The columns of these samples. Later changes of a sample do not reach them."""
        columns = [list(column) for column in zip(*map(_VALUES, samples), strict=True)] or [[] for _ in NAMES]
        return cls(**dict(zip(NAMES, columns, strict=True)))

    def __len__(self) -> int:
        return len(self.key)

    def __iter__(self) -> Iterator[Sample]:
        for values in zip(*(getattr(self, name) for name in NAMES), strict=True):
            yield Sample(**dict(zip(NAMES, values, strict=True)))

    def rows_with(self, statuses: Container[str]) -> list[int]:
        """The rows whose status is one of these."""
        return [row for row, status in enumerate(self.status) if status in statuses]

    def select(self, rows: Sequence[int]) -> SampleColumns:
        """A copy of some rows, in this order."""
        whole = list(rows) == list(range(len(self)))
        chosen: dict[str, Any] = {name: _taken(getattr(self, name), None if whole else rows) for name in NAMES}
        return SampleColumns(**chosen)

    def mark(self, row: int, status: str, error: str | None) -> None:
        """Says what became of a row, whatever was said before."""
        self.status[row], self.error[row] = status, error

    def mark_as(self, rows: Sequence[int], part: SampleColumns) -> None:
        """Says of each of `rows` what `part`, which was selected by them, says of it."""
        for row, status, error in zip(rows, part.status, part.error, strict=True):
            if status != self.status[row]:
                self.mark(row, status, error)


NAMES = tuple(field.name for field in fields(SampleColumns))
_VALUES = attrgetter(*NAMES)
_Value = TypeVar("_Value")


def _taken(column: list[_Value], rows: Sequence[int] | None) -> list[_Value]:
    return column[:] if rows is None else [column[row] for row in rows]
