"""`mine --limit N`: a first try of N images, which the same command without the option goes on with.

Shards are mined until the run has N images: first those of the split query, where each image shows a known person,
while a gallery may begin with false detections; then the others in their order.

A shard is the unit of work and is done as a whole or not at all. So shards that fit into N are done, and of the next
one the first images are published in RUN/first-images, where readers see them and where they do not make the shard
done. The run that goes on mines that shard whole, publishes it as any other, and removes its first images. A run that
began with a first try is in the end equal to one without.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.errors import UserError
from jobs.mining.config import MineOptions
from jobs.phrases import first_few
from jobs.runs.footer import read_facts
from jobs.runs.integrity.belonging import check_metadata
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.restart import changed_shards, remove_first_images
from jobs.shards.samples import split_of
from jobs.shards.urls import Shard

logger = logging.getLogger(__name__)


def shards_for_a_first_try(shards: Sequence[Shard]) -> list[Shard]:
    """The shards in the order in which a first try takes them."""
    return sorted(shards, key=lambda shard: split_of(shard.name) != "query")  # stable


@dataclass(frozen=True, kw_only=True)
class FirstTry:
    """How many images are still to be mined; None where all are. `is_over` says that the run has them already."""

    left: int | None = None
    is_over: bool = False

    @classmethod
    def of(cls, layout: RunLayout, run: Manifest | None, block: Sequence[Shard], options: MineOptions) -> FirstTry:
        """What a limit leaves to do in a run; `run` is the one that goes on, if any.

        Removes the first images of shards that are done by now, and those that are of no use. Raises UserError where
        the run has added maps, which first images would lack, and where the metadata of a shard cannot be read.
        """
        done = set() if run is None else layout.done()
        remove_first_images(layout, done)
        if run is not None:
            _remove_useless(layout, run, block)
        if options.limit is None:
            return cls()
        if run is None:
            return cls(left=options.limit)
        if run.additions:
            raise UserError(f"{layout.root} has maps that were added, which first images would lack: leave out --limit")
        left = options.limit - _rows(layout, [shard.name for shard in block if shard.name in done])
        reading = layout.reading_begun()
        begun = _rows(reading, [shard.name for shard in block if shard.name in reading.begun])
        return cls(left=left, is_over=left <= begun)


def refuse_first_images(layout: RunLayout) -> None:
    """Raises UserError where a run has first images: they would lack the maps that are added to shards that are done.

    Readers see of a run only the maps that all its images have.
    """
    if begun := sorted(layout.reading_begun().begun):
        raise UserError(
            f"{layout.root} has only the first images of {first_few(begun)}, which cannot get further maps: give "
            "`promptsg mine` without --limit and --add-maps first, then --add-maps"
        )


def _remove_useless(layout: RunLayout, run: Manifest, block: Sequence[Shard]) -> None:
    """Removes first images that are not the run's, or whose tar is another now. Each is named in the log."""
    reading = layout.reading_begun()
    begun = [shard for shard in block if shard.name in reading.begun]
    for shard in begun:
        if reason := _useless_because(reading, run, shard):
            logger.warning("%s: its first images are removed: %s", shard.name, reason)
            remove_first_images(layout, [shard.name])


def _useless_because(reading: RunLayout, run: Manifest, shard: Shard) -> str | None:
    """Why the first images of a shard are of no use; None where they are of use."""
    path = reading.shard_metadata(shard.name)
    try:
        check_metadata(path, shard.name, run.fingerprint, read_facts(path))
        changed = list(changed_shards(reading, run.shards, [shard]))
    except UserError as error:  # mining them again costs little
        return str(error)
    return next((f"its tar changed since: {one.how}" for one in changed if one.how is not None), None)


def _rows(layout: RunLayout, shards: Sequence[str]) -> int:
    """The images of shards by their footers, failed ones included."""
    return sum(read_facts(layout.shard_metadata(shard)).rows for shard in shards)
