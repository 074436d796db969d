"""Training as one call: reads the images, runs the steps, and says what came out."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import EXIT_DRAINED, EXIT_OK
from jobs.launch.drain import Drain
from jobs.phrases import counted
from jobs.training.config import TrainConfig
from jobs.training.data import load_training_images
from jobs.training.early import refuse_wrong_training
from jobs.training.folder import TrainingFolder
from jobs.training.loop import run_to_end
from jobs.training.steps import Training

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """What a training did: `step` of its `steps` steps are done, on `images` images of `identities` identities.

    `checkpoint` is the file for `promptsg mine --checkpoint`. `drained` says why the training stopped before the last
    step, or is None. `deleted` names the files of the training that was overwritten. `seconds` is the time of this
    call.
    """

    checkpoint: Path
    images: int
    identities: int
    device: str
    precision: str
    step: int
    steps: int
    drained: str | None
    seconds: float
    deleted: tuple[Path, ...] = ()

    @property
    def exit_status(self) -> int:
        """0 for a finished training, 75 for one that was stopped."""
        return EXIT_OK if self.drained is None else EXIT_DRAINED


def train(config: TrainConfig, *, overwrite: bool = False) -> TrainingReport:
    """Trains, or continues the training that the output folder holds; with `overwrite` that one is deleted before.

    Raises UserError where the images cannot be read or are too few, where the folder holds another training, and where
    the loss is not finite any more; ShardError where a shard cannot be read.
    """
    started = time.monotonic()
    data = load_training_images(refuse_wrong_training(config), config.image_size, config.workers)
    training = Training(config, data)
    images, identities, device = len(data.keys), len(data.pids), str(training.device)
    begun = f"{counted(images, 'image')} of {counted(identities, 'identity', 'identities')}"
    logger.info("%s; %s on %s in %s", begun, counted(training.steps, "step"), device, training.precision)
    deleted = TrainingFolder(config.output).discard() if overwrite else ()
    with Drain() as drain:
        finished = run_to_end(training, drain)
    return TrainingReport(
        checkpoint=TrainingFolder(config.output).checkpoint,
        images=images,
        identities=identities,
        device=device,
        precision=training.precision,
        step=training.steps if finished else training.step,
        steps=training.steps,
        drained=None if finished else drain.requested,
        deleted=deleted,
        seconds=time.monotonic() - started,
    )
