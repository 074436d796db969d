"""Which cameras of the shards a --camera-map leaves out, found before mining (no torch)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from jobs.errors import ShardError
from jobs.phrases import first_few
from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard

logger = logging.getLogger(__name__)

_LOOKED_AT = 500  # samples


def warn_of_unmapped(path: Path, mapped: Collection[int], shards: Sequence[Shard]) -> None:
    """Names the cameras of the first local shard that the map in `path` leaves out: their images will have no maps.

    The beginning of one shard is read: the cameras of a data set are usually mixed, and a shard may be large and far
    away. A shard that cannot be read says nothing here.
    """
    first = next((shard for shard in shards if shard.is_local), None)
    if first is None:
        return
    try:
        with TarReader(first) as tar:
            seen = {sample.camid for sample, _ in islice(read_samples(tar, first.name), _LOOKED_AT)}
    except (ShardError, OSError):  # mining says what is wrong with it
        return
    if lacking := sorted(camid for camid in seen if camid is not None and camid >= 0 and camid not in mapped):
        logger.warning("the camera map %s leaves out the cameras %s of shard %s: their images fail as no_camera; add "
                       "them to the map", path, first_few(lacking, 20), first.name)  # fmt: skip
