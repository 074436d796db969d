"""The training images: all images of the training split, decoded, in memory."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.errors import UserError
from jobs.identity import PERSON, require_own_pids, training_classes
from jobs.phrases import counted, first_few
from jobs.progress import told
from jobs.shards.reader import Batch, ShardReader
from jobs.shards.samples import OK, Sample
from jobs.shards.urls import Shard

logger = logging.getLogger(__name__)

_MOST_FAILED = 0.01  # the share of damaged images above which it is not an accident
_READ_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """`images` (n, 3, H, W) uint8 RGB, `labels` (n,) int64 and `keys` are in the order of the shards.

    The label of an image is the rank of its pid among the sorted `pids`.
    """

    images: Tensor
    labels: Tensor
    pids: tuple[int, ...]
    keys: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over keys, labels and pixels, which a training that continues must find unchanged."""
        digest = hashlib.sha256("\n".join(self.keys).encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(self.images.numpy().data)
        return digest.hexdigest()


@told("reading the training images")
def load_training_images(shards: Sequence[Shard], image_size: tuple[int, int], workers: int = 0) -> TrainingImages:
    """Reads every image of a person in the split `train` (or without a split), resized to (height, width).

    Distractors and junk are left out. Raises ShardError for a shard that cannot be read. Raises UserError where more
    than 1 % of the samples are damaged, where there is no training image, and where a pid is not one person's.
    """
    pixels: list[Tensor] = []
    kept: list[Sample] = []
    statuses: Counter[str] = Counter()
    first_failed: str | None = None
    with ShardReader(image_size=image_size, batch_size=_READ_AT_ONCE, workers=workers) as reader:
        for item in reader.read(shards):
            if isinstance(item, Batch):
                samples = list(item.samples)
                statuses.update(item.samples.status)
                bad = next((sample for sample in samples if sample.status != OK), None)
                if first_failed is None and bad is not None:
                    first_failed = f"{bad.key!r} of {item.shard.url}: {bad.error}"
                good = [sample for sample in samples if sample.status == OK]
                rows = [row for row, sample in enumerate(good) if _is_training(sample)]
                pixels.append(item.images[rows])
                kept += [good[row] for row in rows]
            elif item.error is not None:
                raise item.error
    _refuse_damage(statuses, first_failed)
    if not kept:
        raise UserError(
            f"no training image among the {counted(statuses.total(), 'sample')} of "
            f"{first_few(s.name for s in shards)}: "
            "their split is not train, or no pid is known; give the shards of bounding_box_train"
        )
    require_own_pids((sample.pid, sample.identity) for sample in kept if sample.pid is not None)
    pids = [sample.pid for sample in kept if sample.pid is not None]
    label_of = training_classes(pids)
    return TrainingImages(
        images=torch.cat(pixels).contiguous(),
        labels=torch.tensor([label_of[pid] for pid in pids]),
        pids=tuple(label_of),
        keys=tuple(sample.key for sample in kept),
    )


def _is_training(sample: Sample) -> bool:
    return sample.split in ("train", None) and sample.role == PERSON and sample.pid is not None


def _refuse_damage(statuses: Counter[str], first: str | None) -> None:
    """Raises UserError where too many samples cannot be used; `first` is the first of them."""
    failed = {status: count for status, count in statuses.items() if status != OK}
    if first is None:
        return
    words = ", ".join(f"{count} {status}" for status, count in sorted(failed.items()))
    words += f" (the first is {first})"
    if sum(failed.values()) > _MOST_FAILED * statuses.total():
        raise UserError(
            f"of {counted(statuses.total(), 'training sample')} too many cannot be used: {words}; pack the shards again"
        )
    logger.warning("left out: %s", words)
