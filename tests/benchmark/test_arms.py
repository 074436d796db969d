"""What the benchmarks beside the tests share: arms that take turns, and shards for a run as long as wanted."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.bench import bench_memory
from tests.bench.arms import Spread, distance, measure, require_equal
from tests.support.shard_files import market_shard, write_tar


def test_the_order_of_the_arms_rotates() -> None:
    order: list[str] = []
    arms = {name: partial(order.append, name) for name in "abc"}
    seconds, processor = measure(arms, 3, 1, torch.device("cpu"))
    assert "".join(order) == "cababcbcacab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(0 <= value < 1 for values in processor.values() for value in values)
    spread = Spread.of([4.0, 1.0, 3.0])
    assert (spread.low, spread.median, spread.high) == (1.0, 3.0, 4.0)


def test_a_difference_is_refused_and_so_is_what_proves_nothing() -> None:
    ours = torch.tensor([3.0, 4.0])
    assert distance(torch.tensor([3.0, 4.5]), ours) == pytest.approx(0.1)
    assert distance(ours, torch.zeros(2)) == float("inf")
    require_equal({"x": 0.1}, 0.1)
    with pytest.raises(SystemExit, match=r"x differs by 0\.11; z differs by 3$"):
        require_equal({"x": 0.11, "y": 0.0, "z": 3.0}, 0.1)
    with pytest.raises(SystemExit, match="x differs by nan"):
        require_equal({"x": float("nan")}, 1.0)


def test_a_run_is_made_as_long_as_wanted_of_links(tmp_path: Path) -> None:
    market_shard(tmp_path / "a-0.tar", 3)
    folder = tmp_path / "long"
    folder.mkdir()
    assert bench_memory.link_shards([str(tmp_path / "a-*.tar")], 8, folder) == 9
    assert sorted(path.resolve() for path in folder.iterdir()) == [(tmp_path / "a-0.tar").resolve()] * 3
    write_tar(tmp_path / "b-0.tar", [])
    with pytest.raises(SystemExit, match="no images in these shards"):
        bench_memory.link_shards([str(tmp_path / "b-0.tar")], 8, folder)
