"""Blocks of the shard list: every shard in one of them, in order."""

from __future__ import annotations

import pytest

from jobs.errors import UserError
from jobs.launch.split import block_of


@pytest.mark.parametrize(("count", "parts"), [(12, 4), (7, 3), (3, 8), (0, 2), (10_000, 64), (1, 1), (1001, 1000)])
def test_blocks_cover_the_list_once_in_order(count: int, parts: int) -> None:
    blocks = [block_of(count, index, parts) for index in range(parts)]
    assert [position for block in blocks for position in block] == list(range(count))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


def test_a_position_outside_the_array_is_refused() -> None:
    assert list(block_of(7, 1, 3)) == [2, 3]  # 7 = 2 + 2 + 3
    for index, parts in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(UserError, match="--array-count"):
            block_of(7, index, parts)
