"""The line of a log for a shard that has ended: what became of it, and how many of all shards have ended.

A log gets a few lines a minute, however fast shards end. What failed, and what is odd, is always said.
"""

from __future__ import annotations

import logging
import time

from jobs.errors import UserError
from jobs.launch.ranks import Counter
from jobs.phrases import counted, counted_kinds
from jobs.runs.events import ShardReport

logger = logging.getLogger(__name__)
# Of shards of which there is nothing to say: so many lines at once, and later one each so many seconds.
_AT_ONCE, _BETWEEN_SECONDS = 6, 10.0


class Tally:
    """How many shards have ended, of all ranks of a task together, of those to do when the first of them looked."""

    def __init__(self, counter: Counter, todo: int) -> None:
        self._counter, self._total = counter, todo
        counter.propose("shards to do", todo)

    def one_more(self) -> str:
        """`12 of 40 shards`, one more than before."""
        ended = self._counter.one_more("shards ended")
        return f"{ended:,} of {counted(self._counter.proposed('shards to do') or self._total, 'shard')}"


class ShardLines:
    """Writes the lines. Without a `tally` no line says how many shards have ended."""

    def __init__(self, tally: Tally | None = None) -> None:
        self._tally = tally
        self._lines, self._counted = float(_AT_ONCE), time.monotonic()  # those that may be written now
        self._unsaid = 0

    def tell(self, report: ShardReport) -> None:
        """One line for a shard; none where one was written just now and there is nothing to say."""
        total = self._total()
        notes = _notes(report)
        if report.error is not None:
            logger.error("%s: failed%s: %s", report.shard, f" ({total})" if total else "", report.error)
        elif self._may_write() or report.failed or report.passed_over:
            others = f" ({counted(self._unsaid, 'shard')} more since the last line)" if self._unsaid else ""
            logger.info(
                "%s: %s%s%s; %sreading %.1f s, model %.1f s, writing %.1f s",
                report.shard,
                "only the first " if report.only_first else "",
                counted(report.images, "image"),
                f" ({', '.join(notes)})" if notes else "",
                f"{total}{others}; " if total else "",
                report.seconds_reading,
                report.seconds_model,
                report.seconds_writing,
            )
            self._unsaid = 0
        else:
            self._unsaid += 1

    def _may_write(self) -> bool:
        now = time.monotonic()
        self._lines = min(_AT_ONCE, self._lines + (now - self._counted) / _BETWEEN_SECONDS)
        self._counted = now
        if self._lines < 1:
            return False
        self._lines -= 1
        return True

    def _total(self) -> str:
        if self._tally is None:
            return ""
        try:
            return self._tally.one_more()
        except UserError:  # the ranks' counter is lost; the next draw meets the same error and ends the run
            return ""


def _notes(report: ShardReport) -> list[str]:
    """What is to be said of a shard beside the number of its images."""
    notes = [f"{count} {reason}" for reason, count in sorted(report.failed.items())]
    notes += [f"{count} {reason}, kept" for reason, count in sorted(report.partial.items())]
    notes += [f"{count} all-zero {name}" for name, count in report.zero_maps.items() if count]
    if report.done_again:
        notes.append(f"{counted(report.done_again, 'image')} done again in fp32")
    if report.passed_over:
        notes.append(f"passed over {counted_kinds(report.passed_over)}")
    return notes
