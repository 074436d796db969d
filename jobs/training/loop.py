"""The training loop: runs the steps, logs and saves on the way, and stops on request so that nothing is lost."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils.deterministic

from jobs.atomic import make_folder
from jobs.launch.drain import Drain
from jobs.progress import duration
from jobs.training.folder import TrainingFolder
from jobs.training.steps import Training

logger = logging.getLogger(__name__)


def run_to_end(training: Training, drain: Drain) -> bool:
    """Runs to the last step, or to a request to stop. Returns whether the training is finished.

    Continues from the state in the folder, if there is one. The folder has all files afterwards. Raises UserError
    where it holds another training, and where the loss is not finite any more.
    """
    folder = TrainingFolder(training.config.output)
    make_folder(folder.root)
    if folder.holds_finished(training):
        folder.resume.unlink(missing_ok=True)  # where an error or a kill came between the last two steps
        logger.info("%s holds this training, finished; nothing to do", folder.root)
        return True
    if folder.restore(training):
        logger.info("going on from step %d of %d", training.step, training.steps)
    else:
        folder.write_about(training, finished=False)
    with _deterministic():
        _run_steps(training, folder, drain)
        folder.save(training)
    finished = training.step >= training.steps
    folder.finish(training, finished=finished)
    return finished


def _run_steps(training: Training, folder: TrainingFolder, drain: Drain) -> None:
    first, started = training.step, time.monotonic()
    while training.step < training.steps and drain.requested is None:
        training.advance()
        if training.step % training.config.log_every == 0:
            training.log()
            folder.write_log(training.rows)
            _tell(training, (time.monotonic() - started) / (training.step - first))
        if training.step % training.config.save_every == 0:
            folder.save(training)


def _tell(training: Training, seconds: float) -> None:
    """Logs the last row; `seconds` is the time for one step."""
    row = training.rows[-1]
    logger.info(
        "step %d of %d: loss %.3f, accuracy %.2f, attention entropy %.3f; %.2f s a step, %s left",
        training.step,
        training.steps,
        row["loss"],
        row["accuracy"],
        row["attention_entropy"],
        seconds,
        duration(seconds * (training.steps - training.step)),
    )


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Makes torch repeat its results to the bit, where its kernels can. Puts the settings back afterwards."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled = torch.are_deterministic_algorithms_enabled()
    only_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic  # a module with a property, which the types do not have
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False  # it takes time in every step
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=only_warning)
        settings.fill_uninitialized_memory = filled
