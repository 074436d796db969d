"""Images whose numbers are not finite in fp16 or bf16 are done again in float32.

Legend: B rows of a batch's results, n of them that are done again.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from cam.measures import measure_stack
from cam.names import MapName
from jobs.arrays import BoolArray, Float32Array
from jobs.atomic import sha256_of
from jobs.errors import UserError
from jobs.memory import is_out_of_memory
from jobs.mining.batch import MiningSetup
from jobs.mining.camera_rows.source import NO_CAMERAS, CameraSource
from jobs.mining.devices.host import HostDevice
from jobs.mining.fitting import FittingBatches
from jobs.mining.limits.model_source import ModelSource
from jobs.mining.passes.plain import plain_pass
from jobs.mining.targets import TargetSource
from jobs.phrases import one_line
from jobs.runs.manifest import Manifest
from jobs.runs.metadata_rows import Results
from jobs.shards.columns import SampleColumns
from jobs.shards.reader import Batch
from jobs.shards.samples import KEPT, NO_CAMERA, NO_CAPTION, OK
from promptsg_core.errors import ModelError

logger = logging.getLogger(__name__)

LOW_PRECISIONS = ("fp16", "bf16")
_AT_ONCE = 32  # the memory is full of the other model's batches
# The samples that had an image when the model ran: the reasons without a row in the results are the model's own.
_OF_MODEL = KEPT | {NO_CAMERA, NO_CAPTION}
_MANY, _MANY_IMAGES = 0.1, 1000  # the share of images, and of how many, from which another precision is faster


class Fp32Repeats:
    """Corrects the results of batches: rows that are not finite are replaced by those of the model in float32.

    That model is loaded from the checkpoint, which must be the one of the run (`manifest`), when the first such row
    comes: weights in fp16 have lost the bits that float32 needs. Where it cannot be loaded, or has no room for an
    image, a warning says so, and such rows stay as they are. `done` counts the rows that were replaced, of `seen`.
    """

    def __init__(
        self,
        source: ModelSource,
        targets: TargetSource,
        cameras: CameraSource = NO_CAMERAS,
        *,
        manifest: Manifest | None = None,
    ) -> None:
        self._source, self._targets, self._cameras, self._manifest = source, targets, cameras, manifest
        self._batches: FittingBatches | None = None
        self._given_up = False
        self.done = self.seen = 0

    def corrected(self, batch: Batch, results: Results) -> Results:
        """The results of a batch that was mined, with finite rows where float32 has them, and their number.

        `batch` is as the model has left it: its images (one for each sample that decoded), on any device, and its
        samples' statuses. The arrays of `results` are changed in place. A row that is not finite in float32 either
        stays so.
        """
        imaged = batch.samples.rows_with(_OF_MODEL)
        images = np.flatnonzero([batch.samples.status[row] in KEPT for row in imaged])  # of each row of the results
        samples = batch.samples.select([imaged[image] for image in images])
        rows = rows_not_finite(samples, results)
        self.seen += len(samples)
        if not len(rows) or (again := self._mined(batch, samples.select(rows.tolist()), images[rows])) is None:
            return results
        _put(results, rows, again, self._measured(results, again))
        self._count(len(rows))
        return replace(results, done_again=results.done_again + len(rows))

    def _mined(self, batch: Batch, samples: SampleColumns, images: NDArray[np.intp]) -> Results | None:
        """The results of some of a batch's images in float32; None where they cannot be had."""
        for row in range(len(samples)):
            samples.mark(row, OK, None)  # mining marks those without a target again
        if (batches := self._loaded()) is None:
            return None
        try:
            pixels = batch.images[torch.from_numpy(images).to(batch.images.device)]
            return batches.mine(Batch(batch.shard, samples, pixels))
        except Exception as error:  # there is no memory for a single image, or for the copies of these
            if not isinstance(error, UserError) and not is_out_of_memory(error):
                raise
            self._give_up(error)
            return None

    def _loaded(self) -> FittingBatches | None:
        """What mines in float32; None where the model cannot be loaded."""
        if self._batches is None and not self._given_up:
            logger.info("numbers of an image are not finite: loading %s in fp32 too", self._source.config.checkpoint)
            try:
                self._batches = self._load()
            except Exception as error:
                if not isinstance(error, (UserError, ModelError, OSError)) and not is_out_of_memory(error):
                    raise
                self._give_up(error)
        return None if self._given_up else self._batches

    def _load(self) -> FittingBatches:
        config, manifest = self._source.config, self._manifest
        mined_with = None if manifest is None else manifest.asked.checkpoint_sha256
        if mined_with is not None and sha256_of(config.checkpoint) != mined_with:
            raise UserError(f"{config.checkpoint} is another file than when the run was started")
        model = self._source.load("fp32")
        config = config.model_copy(update={"batch_size": _AT_ONCE})
        setup = MiningSetup(
            model=model,
            run=plain_pass(model, config),
            config=config,
            targets=self._targets,
            cameras=self._cameras,
            device=HostDevice(),  # a few images, one after the other, on whatever device the model is
        )
        return FittingBatches(setup)

    def _give_up(self, error: Exception) -> None:
        self._given_up, self._batches = True, None
        logger.warning(
            "images whose numbers are not finite fail, since they cannot be done again in fp32: %s", one_line(error)
        )

    def _measured(self, results: Results, again: Results) -> Float32Array | None:
        """The measures of the maps in `again`, where those of `results` were taken already."""
        if results.measures is None or self._manifest is None:
            return None
        maps = np.stack([again.maps[name] for name in self._manifest.maps])
        return measure_stack(maps, self._manifest.measured_placement)

    def _count(self, rows: int) -> None:
        before = self._are_many
        self.done += rows
        if self._are_many and not before:
            logger.warning(
                "%d of %d images so far were done again in fp32: with --precision fp32 or bf16, into another --output, "
                "this model mines faster", self.done, self.seen,
            )  # fmt: skip

    @property
    def _are_many(self) -> bool:
        return self.done > _MANY * max(self.seen, _MANY_IMAGES)


def rows_not_finite(samples: SampleColumns, results: Results) -> NDArray[np.intp]:
    """The rows with a number that should be finite and is not; `samples` are those of the B rows.

    A sample without a target has neither score nor maps of the target, and an image without a class no probability:
    NaN is correct there.
    """
    without_target = np.array([status != OK for status in samples.status], np.bool_)
    found = ~(np.isfinite(results.score) | without_target)
    found |= ~(np.isfinite(results.probability) | (results.predicted < 0))
    found |= _has_not_finite(results.features)
    for name, values in results.maps.items():
        bad = _has_not_finite(values)
        found |= bad & ~without_target if MapName.parse(name).needs_target else bad
    for values in results.stored.values():
        found |= _has_not_finite(values)
    return np.flatnonzero(found)


def _has_not_finite(values: NDArray[np.float32]) -> BoolArray:
    """(B, ...) -> (B,). A sum is one pass without a copy, and not finite if a number is not; it can also overflow."""
    flat = values.reshape(len(values), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        found = ~np.isfinite(flat.sum(axis=1))
    suspects = np.flatnonzero(found)
    found[suspects] = ~np.isfinite(flat[suspects]).all(axis=1)
    return np.asarray(found, np.bool_)


def _put(results: Results, rows: NDArray[np.intp], again: Results, measures: Float32Array | None) -> None:
    """Replaces these n rows by the n rows of `again`, and their measures."""
    if results.measures is not None and measures is not None:
        results.measures[:, :, rows] = measures
    for name, values in again.maps.items():
        results.maps[name][rows] = values
    for name, values in again.stored.items():
        results.stored[name][rows] = values
    results.features[rows] = again.features
    results.score[rows] = again.score
    results.predicted[rows] = again.predicted
    results.probability[rows] = again.probability
