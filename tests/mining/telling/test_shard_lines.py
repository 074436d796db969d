"""The lines of shards: how many of all have ended, and few lines where many shards end."""

from __future__ import annotations

import logging

import pytest

from jobs.launch.environment import Environment
from jobs.launch.ranks import Ranks
from jobs.mining.telling.shard_lines import ShardLines, Tally
from jobs.runs.events import ShardReport


def lines_of(caplog: pytest.LogCaptureFixture, reports: list[ShardReport], total: int) -> list[str]:
    caplog.set_level(logging.INFO)
    with Ranks(Environment()) as ranks:
        lines = ShardLines(Tally(ranks, total))
        for report in reports:
            lines.tell(report)
    return caplog.messages


def test_a_line_has_the_number_of_shards_that_ended(caplog: pytest.LogCaptureFixture) -> None:
    reports = [ShardReport(shard="a", images=1), ShardReport(shard="b", error="b: the disk is full")]
    assert lines_of(caplog, reports, 40) == [
        "a: 1 image; 1 of 40 shards; reading 0.0 s, model 0.0 s, writing 0.0 s",
        "b: failed (2 of 40 shards): b: the disk is full",
    ]


def test_many_quick_shards_get_few_lines_and_failures_all_of_theirs(caplog: pytest.LogCaptureFixture) -> None:
    quick = [ShardReport(shard=f"s-{number}", images=2) for number in range(20)]
    odd = ShardReport(shard="odd", images=2, failed={"image_corrupt": 1})
    said = lines_of(caplog, [*quick, odd, ShardReport(shard="bad", error="gone")], 22)
    assert [line.split(":")[0] for line in said] == ["s-0", "s-1", "s-2", "s-3", "s-4", "s-5", "odd", "bad"]
    assert "odd: 2 images (1 image_corrupt); 21 of 22 shards (14 shards more since the last line)" in said[6]


def test_the_first_proposal_counts() -> None:
    with Ranks(Environment()) as ranks:
        assert ranks.proposed("shards to do") == 0
        Tally(ranks, 40)
        assert Tally(ranks, 7).one_more() == "1 of 40 shards"
