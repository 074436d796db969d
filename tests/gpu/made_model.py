"""The model and the shards that the other parts measure with."""

from __future__ import annotations

import time

from tests.gpu.parts import Kept
from tests.gpu.pictures import drawn_jpegs, write_shards
from tests.gpu.setting import Setting
from tests.gpu.subjects import measured_subject

_DRAWN, _IMAGES_EACH, _SHARDS = 512, 2048, 160


def measure(setting: Setting, kept: Kept) -> None:
    """Writes the checkpoint and the shards, and keeps their sizes."""
    started = time.perf_counter()
    measured_subject(setting).save(setting.scratch)
    size = setting.checkpoint.stat().st_size
    kept.put({"checkpoint_bytes": size, "checkpoint_seconds": round(time.perf_counter() - started, 1)})
    started = time.perf_counter()
    drawn, each, shards = (24, 8, 60) if setting.small else (_DRAWN, _IMAGES_EACH, _SHARDS)
    jpegs = drawn_jpegs(drawn)
    write_shards(setting.shards, jpegs, shards, each)
    kept.put(
        {
            "checkpoint_bytes": size,
            "distinct_images": drawn,
            "bytes_of_an_image": sum(map(len, jpegs)) // drawn,
            "shards": shards,
            "images_each": each,
            "shards_seconds": round(time.perf_counter() - started, 1),
        }
    )
