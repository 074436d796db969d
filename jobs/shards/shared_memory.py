"""Room in the memory that processes share: containers often have 64 MB of it, and more batches than that crash."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from pathlib import Path

from jobs.phrases import counted

logger = logging.getLogger(__name__)
SHARED_MEMORY = "/dev/shm"


def can_take(size: int) -> bool:
    """Whether shared memory takes so many bytes now. Where it does not, torch would keep what it got of them."""
    if not Path(SHARED_MEMORY).exists():
        return True
    try:
        with tempfile.TemporaryFile(dir=SHARED_MEMORY) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        return False
    return True


def has_room(batch: tuple[int, ...], batches: int, processes: int, ranks_on_node: int = 1) -> bool:
    """Whether `batches` uint8 batches of this shape fit into shared memory; where they do not, one line says so.

    `processes` decode them for each of `ranks_on_node` ranks, which share the room. A system without /dev/shm, such as
    macOS, has no such limit.
    """
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError:
        return True
    free, needed = room.f_bavail * room.f_frsize, math.prod(batch) * batches * ranks_on_node
    if needed <= free:
        return True
    decoders = counted(processes * ranks_on_node, "decoding process", "decoding processes")
    logger.warning(
        "%s has %s MB of room and %s may need %s MB: pixels go through pipes, which is slower. A larger one "
        "(--shm-size of a container), fewer --workers or a smaller --batch-size avoid that",
        SHARED_MEMORY, f"{free / 1e6:,.0f}", decoders, f"{needed / 1e6:,.0f}",
    )  # fmt: skip
    return False
