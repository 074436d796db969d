"""Splitting the shard list over array tasks, by position in the full list (pure)."""

from __future__ import annotations

from jobs.errors import UserError


def block_of(count: int, index: int, parts: int) -> range:
    """Positions of block `index` (0-based) of a list of `count` items cut into `parts` contiguous blocks.

    Blocks differ in length by at most one; with more parts than items some are empty. Split the *full* list and skip
    what is done afterwards: splitting what is left would differ between workers that start at different times.
    Raises UserError if `index` is not one of 0..parts-1.
    """
    if parts < 1:
        raise UserError(f"the array count is {parts}; it takes at least 1 task (--array-count)")
    if not 0 <= index < parts:
        raise UserError(f"the array index {index} is not in 0..{parts - 1}; it is 0-based and below --array-count")
    if count < 0:
        raise ValueError(f"a list cannot have {count} items")
    return range(count * index // parts, count * (index + 1) // parts)
