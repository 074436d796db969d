"""Training images: all of the shards' training split in memory, and batches of P identities with K images each."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.errors import UserError
from jobs.shards.reader import Batch, ShardReader
from jobs.shards.samples import OK, Sample
from jobs.shards.urls import Shard

logger = logging.getLogger(__name__)

_MOST_FAILED = 0.01  # of the images; more of them damaged is no accident
_READ_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """images (n, 3, H, W) uint8 RGB; labels (n,) int64, the rank of each pid among the sorted `pids`; keys, n names."""

    images: Tensor
    labels: Tensor
    pids: tuple[int, ...]
    keys: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over keys, labels and pixels: what a resumed training must find unchanged."""
        digest = hashlib.sha256("\n".join(self.keys).encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(self.images.numpy().data)
        return digest.hexdigest()


def load_training_images(shards: Sequence[Shard], image_size: tuple[int, int], workers: int = 0) -> TrainingImages:
    """Reads every image of the split `train` (or of no named split) that has a pid, resized to (height, width).

    Junk (pid -1) is left out. Raises ShardError for a shard that cannot be read, and UserError when more than 1 % of
    the samples are damaged or when there is no training image.
    """
    pixels: list[Tensor] = []
    kept: list[Sample] = []
    statuses: Counter[str] = Counter()
    with ShardReader(image_size=image_size, batch_size=_READ_AT_ONCE, workers=workers) as reader:
        for item in reader.read(shards):
            if isinstance(item, Batch):
                statuses.update(sample.status for sample in item.samples)
                good = [sample for sample in item.samples if sample.status == OK]
                rows = [row for row, sample in enumerate(good) if _is_training(sample)]
                pixels.append(item.images[rows])
                kept += [good[row] for row in rows]
            elif item.error is not None:
                raise item.error
    _refuse_damage(statuses)
    if not kept:
        raise UserError(
            f"no training image among the {statuses.total()} samples of {', '.join(s.name for s in shards[:5])}: "
            "their split is not train, or no pid is known; give the shards of bounding_box_train"
        )
    pids = tuple(sorted({sample.pid for sample in kept if sample.pid is not None}))
    label_of = {pid: label for label, pid in enumerate(pids)}
    return TrainingImages(
        images=torch.cat(pixels).contiguous(),
        labels=torch.tensor([label_of[sample.pid] for sample in kept if sample.pid is not None]),
        pids=pids,
        keys=tuple(sample.key for sample in kept),
    )


def _is_training(sample: Sample) -> bool:
    return sample.split in ("train", None) and sample.pid is not None and sample.pid >= 0


def _refuse_damage(statuses: Counter[str]) -> None:
    failed = {status: count for status, count in statuses.items() if status != OK}
    if not failed:
        return
    words = ", ".join(f"{count} {status}" for status, count in sorted(failed.items()))
    if sum(failed.values()) > _MOST_FAILED * statuses.total():
        raise UserError(
            f"of {statuses.total()} training samples too many cannot be used: {words}; pack the shards again"
        )
    logger.warning("left out: %s", words)


class IdentitySampler:
    """P identities with K images each, for any step at once: a step's batch depends on the seed and its number alone.

    Identities come in shuffled rounds, none twice in a round; an identity with fewer than K images repeats some.
    Raises UserError when there are fewer than P identities, or fewer than two in a batch.
    """

    def __init__(self, labels: Tensor, identities: int, images_each: int, seed: int) -> None:
        self._rows = [np.flatnonzero(labels.numpy() == label) for label in range(int(labels.max()) + 1)]
        self._seed, self._p, self._k = seed, identities, images_each
        if not 2 <= identities <= len(self._rows):
            raise UserError(
                f"a batch of {identities} identities cannot be drawn from {len(self._rows)}: "
                f"give --identities between 2 and {len(self._rows)}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps that draw about as many images as there are."""
        return max(1, round(sum(len(rows) for rows in self._rows) / (self._p * self._k)))

    def batch(self, step: int) -> np.ndarray:
        """(P*K,) rows of the training images for a 0-based step, an identity's images side by side."""
        per_round = len(self._rows) // self._p
        number, place = divmod(step, per_round)
        order = np.random.default_rng((self._seed, 0, number)).permutation(len(self._rows))
        rng = np.random.default_rng((self._seed, 1, step))
        chosen = order[place * self._p : (place + 1) * self._p]
        return np.concatenate([self._images_of(identity, rng) for identity in chosen])

    def _images_of(self, identity: int, rng: np.random.Generator) -> np.ndarray:
        rows = rng.permutation(self._rows[identity])
        return np.resize(rows, self._k)  # repeats from the start where there are fewer
