"""The shards that are still to be mined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobs.launch.ranks import Counter, draw
from jobs.runs.layout import RunLayout
from jobs.runs.restart import has_failed_rows
from jobs.shards.urls import Shard


class PendingShards:
    """The shards of a block that are not done; with `retry_failed` also those that are done with failed images.

    `block` has all shards of the block, done or not: ranks that share a counter must draw from the same list, whenever
    they start. So a shard that is done is drawn like the others, and then skipped.
    """

    def __init__(self, block: Sequence[Shard], layout: RunLayout, *, retry_failed: bool = False) -> None:
        self.block, self.layout, self.retry_failed = block, layout, retry_failed

    def is_pending(self, shard: Shard) -> bool:
        """Whether a shard is to be mined, according to the files that the run has now.

        Raises UserError where a shard is done and its metadata cannot be read.
        """
        if not self.layout.shard_metadata(shard.name).is_file():
            return True
        return self._is_mined_again(shard)

    def listed(self) -> list[Shard]:
        """All shards that are to be mined now. One listing of the folder tells which are done."""
        done = self.layout.done()
        return [shard for shard in self.block if shard.name not in done or self._is_mined_again(shard)]

    def drawn(self, counter: Counter) -> Iterator[Shard]:
        """The shards that this process draws, each looked up when it is drawn: another process may have mined it.

        Those that are done when the first one is drawn are not looked up one by one. The reading thread takes them.
        What goes wrong here is raised again where the batches are taken.
        """
        done = self.layout.done()
        for shard in draw(self.block, counter):
            if self._is_mined_again(shard) if shard.name in done else self.is_pending(shard):
                yield shard

    def _is_mined_again(self, shard: Shard) -> bool:
        """Whether a shard that is done is to be mined. Raises as `is_pending`."""
        return self.retry_failed and has_failed_rows(self.layout, shard.name)
