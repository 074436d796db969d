"""Which maps were added to a run after it was started, and on how many of its shards they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.phrases import counted, first_few
from jobs.runs.footer import ShardFooter
from jobs.runs.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class AddedMaps:
    """An addition: its maps, the published shards that have them and those that lack them.

    `failed` counts, by reason, the images that have the maps of the run and lack these.
    """

    number: int
    maps: tuple[str, ...]
    done: int
    lacking: tuple[str, ...]
    failed: dict[str, int]

    @property
    def is_complete(self) -> bool:
        """Whether every published shard has the maps."""
        return not self.lacking

    def describe(self) -> str:
        """On how many shards the maps are, and the command that goes on, on one line."""
        line = f"{', '.join(self.maps)}: added to {self.done} of {counted(self.done + len(self.lacking), 'done shard')}"
        if self.is_complete:
            return line
        again = " ".join(f"--add-maps {name}" for name in self.maps)
        return f"{line}, not to {first_few(self.lacking)}; go on with `promptsg mine ... {again}`"


def added_maps(manifest: Manifest, footers: Sequence[ShardFooter]) -> tuple[AddedMaps, ...]:
    """The additions of a run, in their order, by the footers of its published shards."""
    return tuple(_added(number, maps, footers) for number, maps in manifest.numbered_additions.items())


def _added(number: int, maps: tuple[str, ...], footers: Sequence[ShardFooter]) -> AddedMaps:
    failed: dict[str, int] = {}
    lacking = []
    for footer in footers:
        file = footer.added_file(number)
        if file is None:
            lacking.append(footer.shard)
            continue
        for reason, count in file.failed.items():
            failed[reason] = failed.get(reason, 0) + count
    return AddedMaps(
        number=number, maps=maps, done=len(footers) - len(lacking), lacking=tuple(sorted(lacking)), failed=failed
    )
