"""Which images make up the batch of a step: P identities with K images of each."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from jobs.arrays import Int64Array
from jobs.errors import UserError
from jobs.phrases import counted


class IdentitySampler:
    """The batches of a training. A step's batch depends only on the seed and the step's number.

    `labels` (n,) are the classes of the images. `identities` is P and `images_each` is K. Identities come in shuffled
    rounds, and none twice in a round. An identity with fewer than K images repeats some.

    Raises UserError unless P is between 2 and the number of identities.
    """

    def __init__(self, labels: Tensor, identities: int, images_each: int, seed: int) -> None:
        self._rows_of = [np.flatnonzero(labels.numpy() == label) for label in range(int(labels.max()) + 1)]
        self._seed, self._identities, self._images_each = seed, identities, images_each
        count = len(self._rows_of)
        if not 2 <= identities <= count:
            raise UserError(
                f"a batch of {counted(identities, 'identity', 'identities')} cannot be drawn from {count}: "
                f"give --identities between 2 and {count}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps that draw about as many images as there are."""
        images = sum(len(rows) for rows in self._rows_of)
        return max(1, round(images / (self._identities * self._images_each)))

    def batch(self, step: int) -> Int64Array:
        """(P*K,) rows of the training images for a 0-based step. The images of an identity are side by side."""
        batches_in_round = len(self._rows_of) // self._identities
        number, place = divmod(step, batches_in_round)
        order = np.random.default_rng((self._seed, 0, number)).permutation(len(self._rows_of))
        rng = np.random.default_rng((self._seed, 1, step))
        chosen = order[place * self._identities : (place + 1) * self._identities]
        return np.concatenate([self._images_of(identity, rng) for identity in chosen])

    def _images_of(self, identity: int, rng: np.random.Generator) -> Int64Array:
        rows = rng.permutation(self._rows_of[identity])
        return np.resize(rows, self._images_each)  # starts again where there are fewer
