"""The training loop: steps that depend on the seed and their number alone, saved so that a stop costs nothing."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.deterministic
from torch import Tensor

from jobs.atomic import StagedFile, make_folder, sha256_of, write_whole
from jobs.errors import UserError
from jobs.launch.drain import Drain
from jobs.progress import duration
from jobs.training.augment import Augmentation
from jobs.training.data import IdentitySampler, TrainingImages
from jobs.training.settings import TrainSettings, draw_curve
from promptsg_core.clip_init import clip_config, load_clip, read_clip
from promptsg_core.model import PromptSG
from promptsg_core.precision import PRECISIONS, resolve_device, resolve_precision
from promptsg_core.training import (
    PROMPT_TOKENS,
    Objective,
    checkpoint_bytes,
    cosine_factor,
    parameter_groups,
    prepare_training,
    progress_of,
    small_config,
    step_factor,
    training_forward,
)

logger = logging.getLogger(__name__)

CHECKPOINT, RESUME, LOG, CURVE, ABOUT = "model.safetensors", "resume.pt", "log.csv", "curve.png", "train.json"


class Training:
    """One training under way: the model, its optimizer and how many steps are done.

    `figures` has a row for each logged stretch of steps. Raises UserError where images and settings do not fit.
    """

    def __init__(self, settings: TrainSettings, data: TrainingImages, output: Path, device: str = "auto") -> None:
        self.settings, self.data, self.output = settings, data, output
        self.device = resolve_device(device)
        self.precision = resolve_precision(settings.precision, self.device)
        self.sampler = IdentitySampler(data.labels, settings.identities, settings.images_each, settings.seed)
        self.steps = settings.steps or settings.epochs * self.sampler.steps_per_epoch
        self.model = build_model(settings, len(data.pids)).to(self.device)
        self.optimizer = build_optimizer(self.model, settings)
        self.objective = Objective(
            id_weight=settings.id_weight,
            triplet_weight=settings.triplet_weight,
            contrastive_weight=settings.contrastive_weight,
            unit_triplets=settings.unit_triplets,
        )
        self.augmentation = Augmentation(erase=settings.erase)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.step = 0
        self.figures: list[dict[str, float]] = []
        self._pending: list[dict[str, Tensor]] = []
        self.signature = self._signature()

    def _signature(self) -> dict[str, Any]:
        """What a training that is resumed must have been asked for, in JSON types."""
        init = self.settings.init
        asked = {
            **asdict(self.settings),
            "init": None if init is None else sha256_of(init),
            "precision": self.precision,
        }
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        asked |= {"steps": self.steps, "images": self.data.digest, "trained_parameters": trained}
        plain: dict[str, Any] = json.loads(json.dumps(asked))
        return plain

    def factor(self, step: int) -> float:
        """What every group's learning rate is multiplied by at a 0-based step."""
        if self.settings.schedule == "cosine":
            return cosine_factor(step, self.settings.warmup, self.steps)
        milestones = [epoch * self.sampler.steps_per_epoch for epoch in self.settings.decay_epochs]
        return step_factor(step, self.settings.warmup, milestones)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """(P*K, 3, H, W) augmented uint8 images and (P*K,) labels of a 0-based step, on the device."""
        rows = torch.from_numpy(self.sampler.batch(step))
        rng = np.random.default_rng((self.settings.seed, 2, step))
        images = self.augmentation(self.data.images[rows], rng)
        return images.to(self.device, non_blocking=True), self.data.labels[rows].to(self.device, non_blocking=True)

    def advance(self) -> None:
        """One optimizer step. Nothing waits for the device: the figures are read when they are logged."""
        images, labels = self.batch(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.factor(self.step)
        with torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=self.precision != "fp32"):
            out = training_forward(self.model, images)
        terms = self.objective(out, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(terms["loss"]).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        figures = {**terms, **progress_of(out, labels)}
        self._pending.append({name: value.detach() for name, value in figures.items()})

    def log(self) -> None:
        """Turns the steps since the last call into one row of `figures`, their mean; writes log.csv.

        Raises UserError when the loss is no number any more.
        """
        if not self._pending:
            return
        names = list(self._pending[0])
        means = torch.stack([torch.stack([step[name].float() for name in names]) for step in self._pending]).mean(dim=0)
        self._pending = []
        row = dict(zip(names, means.tolist(), strict=True))
        if not np.isfinite(row["loss"]):
            raise UserError(f"the loss is {row['loss']} at step {self.step}: lower --lr-tower, --lr-new and --lr-qk")
        rates = {f"lr_{g['name']}": g["lr"] for g in self.optimizer.param_groups if g["name"] in ("tower", "new", "qk")}
        epoch = self.step / self.sampler.steps_per_epoch
        self.figures.append({"step": self.step, "epoch": round(epoch, 4), **row, **rates})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.figures[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.figures)
        write_whole(self.output / LOG, text.getvalue().encode())

    def save(self) -> None:
        """Writes the checkpoint as it stands, and what is needed to go on from here."""
        self.log()
        rows = PROMPT_TOKENS if self.settings.init is None else None
        write_whole(
            self.output / CHECKPOINT,
            checkpoint_bytes(self.model, half=self.settings.weights == "fp16", token_rows=rows),
        )
        state = {
            "signature": json.dumps(self.signature),
            "step": self.step,
            "figures": json.dumps(self.figures),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        with StagedFile(self.output / RESUME) as staged:
            torch.save(state, staged.file)
            staged.sync()
            staged.publish()

    def restore(self) -> bool:
        """Goes on from the folder's resume file, if there is one; says whether there was.

        Raises UserError, naming what differs, when it belongs to a training with other settings or images.
        """
        path = self.output / RESUME
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        refuse_other(self.output, json.loads(state["signature"]), self.signature)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.figures = state["step"], json.loads(state["figures"])
        return True


def build_model(settings: TrainSettings, num_classes: int) -> PromptSG:
    """The model at its start, on the CPU and in train mode; random parts come from the seed."""
    torch.manual_seed(settings.seed)
    given: dict[str, Any] = {"image_size": settings.image_size}
    if settings.stride is not None:
        given["stride"] = settings.stride
    if settings.init is None:
        model = PromptSG(small_config(num_classes, **given))
    else:
        clip = read_clip(settings.init)
        model = PromptSG(clip_config(clip, num_classes=num_classes, **given))
        load_clip(model, clip)
    return prepare_training(model, freeze_text=settings.init is not None)


def build_optimizer(model: PromptSG, settings: TrainSettings) -> torch.optim.Optimizer:
    """Adam (weight decay in the gradient) or AdamW (apart from it) over the model's groups."""
    rates = {"tower": settings.lr_tower, "new": settings.lr_new, "qk": settings.lr_qk}
    groups = parameter_groups(model, rates, settings.weight_decay)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer](groups)


def refuse_other(output: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises UserError naming what differs between the training that a folder holds and the one asked for."""
    differing = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if differing:
        words = ", ".join(f"{key} ({before.get(key)}, now {now.get(key)})" for key in differing)
        raise UserError(f"{output} holds a training with other settings: {words}; give another --output, or delete it")


def train(training: Training, *, save_every: int, log_every: int, drain: Drain) -> bool:
    """Runs to the last step, or to a request to stop; whether it was finished. The folder is left with all files."""
    make_folder(training.output)
    if _is_finished(training):
        logger.info("%s holds this training, finished; nothing to do", training.output)
        return True
    if training.restore():
        logger.info("going on from step %d of %d", training.step, training.steps)
    else:
        write_about(training, finished=False)
    first, started = training.step, time.monotonic()
    with _deterministic():
        while training.step < training.steps and drain.requested is None:
            training.advance()
            if training.step % log_every == 0:
                training.log()
                _tell(training, (time.monotonic() - started) / (training.step - first))
            if training.step % save_every == 0:
                training.save()
        training.save()
    finished = training.step >= training.steps
    write_whole(training.output / CURVE, draw_curve(training.figures))
    write_about(training, finished=finished)
    if finished:
        (training.output / RESUME).unlink()
    return finished


def _is_finished(training: Training) -> bool:
    """Whether the folder's training is over. Raises UserError if it was another one."""
    path = training.output / ABOUT
    if not path.exists():
        return False
    about = json.loads(path.read_text(encoding="utf-8"))
    refuse_other(training.output, about["signature"], training.signature)
    return bool(about["finished"]) and (training.output / CHECKPOINT).exists()


def write_about(training: Training, *, finished: bool) -> None:
    """train.json: what was asked, of which images, with what, and how it ended."""
    about = {
        "finished": finished,
        "step": training.step,
        "signature": training.signature,
        "images": len(training.data.keys),
        "identities": len(training.data.pids),
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "trained_parameters": sum(p.numel() for p in training.model.parameters() if p.requires_grad),
        "threads": torch.get_num_threads(),
        "device": str(training.device),
        "torch": torch.__version__,
        "last": training.figures[-1] if training.figures else None,
    }
    write_whole(training.output / ABOUT, (json.dumps(about, indent=1) + "\n").encode())


def _tell(training: Training, seconds: float) -> None:
    row = training.figures[-1]
    logger.info(
        "step %d of %d: loss %.3f, accuracy %.2f, attention entropy %.3f; %.2f s a step, %s left",
        training.step, training.steps, row["loss"], row["accuracy"], row["attention_entropy"], seconds,
        duration(seconds * (training.steps - training.step)),
    )  # fmt: skip


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """The same sums in the same order: on a GPU, kernels that promise so wherever there are any."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    guard: Any = torch.utils.deterministic
    filled = guard.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    guard.fill_uninitialized_memory = False  # it costs time in every step
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        guard.fill_uninitialized_memory = filled
