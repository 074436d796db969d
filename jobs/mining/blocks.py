"""Which shards an element of a job array mines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from jobs.launch.split import block_of

T = TypeVar("T")


def block_of_element(shards: Sequence[T], element: int, array_count: int) -> list[T]:
    """The shards of one element (0-based), of all shards of the run in their order.

    Raises UserError if `element` is not one of 0..array_count-1.
    """
    return [shards[position] for position in block_of(len(shards), element, array_count)]
