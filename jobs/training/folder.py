"""The files of a training: the checkpoint, the state that it continues from, the log, and what was requested."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import JsonValue

from jobs.atomic import write_whole
from jobs.errors import UserError
from jobs.reading import reading
from jobs.system_errors import naming
from jobs.tables import csv_text
from jobs.training.curve import draw_curve
from jobs.training.state_file import SavedState, read_state, write_state
from jobs.training.steps import LogRow, Signature, Training
from promptsg_core.training import PROMPT_TOKENS, checkpoint_bytes

logger = logging.getLogger(__name__)


class TrainingFolder:
    """The folder of one training. Each file is replaced whole.

    `checkpoint` is what `promptsg mine` takes, `resume` the state of a training that is not finished.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoint = root / "model.safetensors"
        self.resume = root / "resume.pt"
        self.about = root / "train.json"
        self.log = root / "log.csv"
        self.curve = root / "curve.png"

    def discard(self) -> tuple[Path, ...]:
        """Deletes the files of the training that is there, and nothing else in the folder. Returns what was deleted.

        Raises OSError naming a file that cannot be deleted.
        """
        deleted = []
        # First the state and the description: without them what is left is no training that could go on.
        for path in (self.resume, self.about, self.checkpoint, self.log, self.curve):
            if path.exists():
                logger.info("overwriting: deleting %s", path)
                with naming(path):
                    path.unlink()
                deleted.append(path)
        return tuple(deleted)

    def save(self, training: Training) -> None:
        """Writes the log, the checkpoint, and what is needed to continue from here."""
        training.log()
        self.write_log(training.rows)
        # A model from scratch has learnt no words but those of the prompts.
        words = PROMPT_TOKENS if training.config.init is None else None
        half = training.config.weights == "fp16"
        write_whole(self.checkpoint, checkpoint_bytes(training.model, half=half, token_rows=words))
        state = SavedState(
            signature=json.dumps(training.signature),
            step=training.step,
            figures=json.dumps(training.rows),
            model=training.model.state_dict(),
            optimizer=training.optimizer.state_dict(),
            scaler=training.scaler.state_dict(),
        )
        write_state(self.resume, state)

    def restore(self, training: Training) -> bool:
        """Brings a training to the state that was saved last. Returns whether there was one.

        Raises UserError, naming what differs, where it is of a training with other settings or images, and where the
        file is damaged.
        """
        if not self.resume.exists():
            return False
        state = read_state(self.resume, training.device)
        self._refuse_other(json.loads(state.signature), training.signature)
        training.model.load_state_dict(state.model)
        training.optimizer.load_state_dict(dict(state.optimizer))
        training.scaler.load_state_dict(dict(state.scaler))
        training.step, training.rows = state.step, json.loads(state.figures)
        return True

    def holds_finished(self, training: Training) -> bool:
        """Whether this training has been finished here. Raises UserError where the folder holds another training."""
        if not self.about.exists():
            return False
        with reading(self.about, "the description of a training", "delete it, or give another --output"):
            about = json.loads(self.about.read_bytes())
            self._refuse_other(about["signature"], training.signature)
            finished = bool(about["finished"])
        return finished and self.checkpoint.exists()

    def write_about(self, training: Training, *, finished: bool) -> None:
        """train.json: what was requested, of which images, with what, and how it ended."""
        about: dict[str, JsonValue] = {
            "finished": finished,
            "step": training.step,
            "signature": training.signature,
            "images": len(training.data.keys),
            "identities": len(training.data.pids),
            "parameters": sum(p.numel() for p in training.model.parameters()),
            "trained_parameters": training.trained_parameters,
            "threads": torch.get_num_threads(),
            "device": str(training.device),
            "torch": torch.__version__,
            "last": {**training.rows[-1]} if training.rows else None,
        }
        write_whole(self.about, (json.dumps(about, indent=1) + "\n").encode())

    def write_log(self, rows: Sequence[LogRow]) -> None:
        """log.csv: one line for each row of the log."""
        if not rows:
            return
        names = list(rows[0])
        text = csv_text(names, ([row[name] for name in names] for row in rows))
        write_whole(self.log, text.encode())

    def finish(self, training: Training, *, finished: bool) -> None:
        """Writes the curve and how the training ended. One that is finished needs no state to continue from."""
        write_whole(self.curve, draw_curve(training.rows))
        self.write_about(training, finished=finished)
        if finished:
            self.resume.unlink(missing_ok=True)

    def _refuse_other(self, before: Signature, now: Signature) -> None:
        """Raises UserError naming what differs between the training in the folder and the one that is requested."""
        differing = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        if differing:
            words = ", ".join(f"{key} ({before.get(key)}, now {now.get(key)})" for key in differing)
            raise UserError(
                f"{self.root} holds a training with other settings: {words}; give another --output, or --overwrite to "
                "delete it"
            )
