"""The shards to which maps are still to be added, and the maps that a request names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cam.names import parse_names
from jobs.launch.ranks import Counter, draw
from jobs.mining.config import MineConfig
from jobs.mining.pending import PendingShards
from jobs.runs.footer import AddedFile, read_facts
from jobs.runs.growth.run_json import number_of_addition
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.shards.urls import Shard


class PendingAdditions(PendingShards):
    """The shards of a block that are done and do not have the maps of an addition; None is one that is not begun.

    With `retry_failed` also those of which some images lack the maps.
    """

    def __init__(
        self, block: Sequence[Shard], layout: RunLayout, number: int | None, *, retry_failed: bool = False
    ) -> None:
        super().__init__(block, layout, retry_failed=retry_failed)
        self.number = number

    def is_pending(self, shard: Shard) -> bool:
        """Whether the maps are to be added to a shard. Raises UserError where its metadata cannot be read."""
        return self.layout.shard_metadata(shard.name).is_file() and self._lacks_maps(shard)

    def has_maps(self, shard: Shard) -> bool:
        """Whether a shard that is done has the maps. Raises UserError where its metadata cannot be read."""
        return self._added_file(shard) is not None

    def listed(self) -> list[Shard]:
        """All shards to which the maps are to be added now."""
        done = self.layout.done()
        return [shard for shard in self.block if shard.name in done and self._lacks_maps(shard)]

    def not_mined(self) -> list[str]:
        """The names of the shards of the block that are not done, and so cannot get maps."""
        done = self.layout.done()
        return [shard.name for shard in self.block if shard.name not in done]

    def drawn(self, counter: Counter) -> Iterator[Shard]:
        """The shards that this process draws, each looked up when it is drawn."""
        return (shard for shard in draw(self.block, counter) if self.is_pending(shard))

    def count_with_maps(self) -> int:
        """How many shards of the block have the maps."""
        done = self.layout.done()
        return sum(shard.name in done and self.has_maps(shard) for shard in self.block)

    def _added_file(self, shard: Shard) -> AddedFile | None:
        if self.number is None:
            return None
        return read_facts(self.layout.shard_metadata(shard.name)).added_file(self.number)

    def _lacks_maps(self, shard: Shard) -> bool:
        file = self._added_file(shard)
        return file is None or (self.retry_failed and bool(file.failed))


def find_addition(layout: RunLayout, run: Manifest, names: Sequence[str]) -> tuple[int | None, tuple[str, ...]]:
    """The number of the addition that has the named maps, and its maps in their order; None where it is a new one.

    Raises CamError for a name that is no map's, and UserError where the run has only some of the maps.
    """
    maps = tuple(dict.fromkeys(str(name) for name in parse_names(names)))
    number = number_of_addition(layout, run, maps)
    return number, maps if number is None else run.numbered_additions[number]


def config_of_addition(config: MineConfig, maps: tuple[str, ...]) -> MineConfig:
    """The configuration of a pass that computes only these maps."""
    return config.model_copy(update={"maps": maps, "attention_heads": "mean"})
