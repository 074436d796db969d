"""Batches in the parts that the memory allows: halved where it does not suffice, and remembered."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from jobs.errors import UserError
from jobs.memory import free_what_failed, is_out_of_memory
from jobs.mining.batch import LaunchedBatch, MiningSetup, launch_batch
from jobs.mining.passes.graphed import GraphedPass
from jobs.phrases import counted
from jobs.runs.metadata_rows import Results
from jobs.shards.reader import Batch
from jobs.shards.samples import OK

logger = logging.getLogger(__name__)


class Correction(Protocol):
    """Puts right what the model has left of a batch, such as rows whose numbers are not finite."""

    def corrected(self, batch: Batch, results: Results) -> Results:
        """The results of a batch that was mined; they may be changed in place.

        `batch` is as the model has left it: images (one for each sample that decoded), on the model's device where it
        is a GPU, and the samples' statuses. Where `results` have measures, these must follow the maps.
        """


@dataclass
class LaunchedParts:
    """A batch that the device works on: `parts` are of the samples in these rows of it.

    `returned` once the reader may write into the batch's images again.
    """

    batch: Batch
    parts: list[tuple[Sequence[int], LaunchedBatch]] = field(default_factory=list)
    returned: bool = False

    def return_if_copied(self) -> None:
        """Gives the batch's images back to the reader, if they have been copied to the device. Does not wait."""
        if not self.returned and all(part.uploaded.copied.passed() for _, part in self.parts):
            self._give_back()

    def return_images(self) -> None:
        """Gives them back in any case, as soon as they have been copied."""
        if not self.returned:
            for _, part in self.parts:
                part.uploaded.copied.wait()
            self._give_back()

    def _give_back(self) -> None:
        self.returned = True
        self.batch.release()


class FittingBatches:
    """Mines batches. After the first that does not fit into memory, all are cut into parts of at most `most` images.

    `correction` is given all results before anything else reads them.
    """

    def __init__(self, setup: MiningSetup, correction: Correction | None = None) -> None:
        self.setup, self._correction = setup, correction
        self.most = setup.config.images_at_once

    def mine(self, batch: Batch) -> Results:
        """The results of all images (B, 3, H, W) of a batch, as mine_batch gives them.

        Raises UserError where the memory does not suffice for a single image.
        """
        return self.take(self.launch(batch))

    def launch(self, batch: Batch) -> LaunchedParts:
        """Starts the passes over a batch's images, of which there is at least one.

        Raises as `mine` does, and then the images have been given back.
        """
        launched = LaunchedParts(batch)
        try:
            self._launch(launched, batch)
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the first error counts
                launched.return_images()
            raise
        return launched

    def _launch(self, launched: LaunchedParts, batch: Batch) -> None:
        if len(batch.images) <= self.most and (whole := self._try(batch)) is not None:
            launched.parts.append((range(len(batch.samples)), whole))
            return
        good = batch.samples.rows_with({OK})
        start = 0
        while start < len(good):
            some = slice(start, start + self.most)
            part = Batch(batch.shard, batch.samples.select(good[some]), batch.images[some])
            if (there := self._try(part)) is not None:
                launched.parts.append((good[some], there))
                start += len(part.samples)

    def take(self, launched: LaunchedParts) -> Results:
        """Waits for the results, marks the batch's samples, and gives the images back. To be called once."""
        try:
            parts = [self._take(launched.batch, rows, part) for rows, part in launched.parts]
        finally:
            launched.return_images()
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _take(self, batch: Batch, rows: Sequence[int], part: LaunchedBatch) -> Results:
        """The results of one part, which is mined again, cut further, if it turns out that memory did not suffice."""
        there = Batch(batch.shard, part.batch.samples, part.uploaded.images)  # wherever the host's images are by now
        results = self._arrived(part)
        if results is None:
            self._make_room(len(there.images))
            results = self.take(self.launch(there))
        elif self._correction is not None:
            results = self._correction.corrected(there, results)
        if part.batch is not batch:
            batch.samples.mark_as(rows, part.batch.samples)
        return results

    def _arrived(self, part: LaunchedBatch) -> Results | None:
        """None where the memory did not suffice; the error, which holds what was allocated, is gone then."""
        try:
            return part.results()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _try(self, batch: Batch) -> LaunchedBatch | None:
        """None where the memory did not suffice; then `most` is smaller."""
        try:
            return launch_batch(batch, self.setup)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._make_room(len(batch.images))  # only here: the error has held what the attempt had allocated
        return None

    def _make_room(self, images: int) -> None:
        """After an attempt with so many images that did not fit. A graph pads them, and keeps memory for its size."""
        graphed = self.setup.run if isinstance(self.setup.run, GraphedPass) else None
        if graphed is not None:
            images = max(images, graphed.tried)
        free_what_failed()
        device = self.setup.model.device
        if images == 1:
            raise UserError(
                f"the memory of {device} does not suffice for one image at a time: other programs may use it; ask for "
                "more memory or another device, or for fewer --maps"
            )
        self.most = min(self.most, images // 2)
        if graphed is not None and graphed.size > self.most:
            graphed.make_smaller(self.most)
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
        done_again=sum(part.done_again for part in parts),
        measures=None if first.measures is None else np.concatenate([part.measures for part in parts], axis=2),
    )
