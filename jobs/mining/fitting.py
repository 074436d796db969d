"""Batches in the parts that the memory allows: halved where it does not suffice, and remembered."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence

import numpy as np
import torch

from jobs.errors import UserError
from jobs.memory import is_out_of_memory
from jobs.mining.batch import mine_batch
from jobs.mining.camera_rows.source import NO_CAMERAS, CameraSource
from jobs.mining.config import MineConfig
from jobs.mining.targets import TargetSource
from jobs.phrases import counted
from jobs.runs.metadata_rows import Results
from jobs.shards.reader import Batch
from jobs.shards.samples import OK
from promptsg_core.model import AnyModel

logger = logging.getLogger(__name__)


class FittingBatches:
    """Mines batches. After the first that does not fit into memory, all are cut into parts of at most `most` images."""

    def __init__(
        self, model: AnyModel, config: MineConfig, targets: TargetSource, cameras: CameraSource = NO_CAMERAS
    ) -> None:
        self.model, self.config, self.targets, self.cameras = model, config, targets, cameras
        self.most = config.batch_size

    def mine(self, batch: Batch) -> Results:
        """The results of all images (B, 3, H, W) of a batch, as mine_batch gives them.

        Raises UserError where the memory does not suffice for a single image.
        """
        if len(batch.images) <= self.most and (whole := self._try(batch)) is not None:
            return whole
        good = [sample for sample in batch.samples if sample.status == OK]
        parts: list[Results] = []
        start = 0
        while start < len(good):
            rows = slice(start, start + self.most)
            part = Batch(batch.shard, good[rows], batch.images[rows])
            if (results := self._try(part)) is not None:
                parts.append(results)
                start += len(part.samples)
        return _joined(parts)

    def _try(self, batch: Batch) -> Results | None:
        """None where the memory did not suffice; then `most` is smaller."""
        try:
            return mine_batch(self.model, batch, self.config, self.targets, self.cameras)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Only here: the error has held what the attempt had allocated.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._halve(len(batch.images))
        return None

    def _halve(self, images: int) -> None:
        device = self.model.device
        if images == 1:
            raise UserError(
                f"the memory of {device} does not suffice for one image at a time: other programs may use it; ask for "
                "more memory or another device, or for fewer --maps"
            )
        self.most = images // 2
        logger.warning(
            "the memory of %s does not suffice for %s at a time: going on with %d (--batch-size %d from the start)",
            device, counted(images, "image"), self.most, self.most,
        )  # fmt: skip


def _joined(parts: Sequence[Results]) -> Results:
    """The results of consecutive parts, as those of one batch."""
    first = parts[0]
    return Results(
        maps={name: np.concatenate([part.maps[name] for part in parts]) for name in first.maps},
        features=np.concatenate([part.features for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        predicted=np.concatenate([part.predicted for part in parts]),
        probability=np.concatenate([part.probability for part in parts]),
        stored={name: np.concatenate([part.stored[name] for part in parts]) for name in first.stored},
    )
