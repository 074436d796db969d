"""The steps of a training. Each depends only on the state before it, the seed and the step's number."""

from __future__ import annotations

import json

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from jobs.atomic import sha256_of
from jobs.errors import UserError
from jobs.training.augment import Augmentation
from jobs.training.config import EXECUTION, TrainConfig
from jobs.training.data import TrainingImages
from jobs.training.model import build_model, build_optimizer
from jobs.training.sampler import IdentitySampler
from promptsg_core.precision import PRECISIONS, compute_float32, resolve_device, resolve_training_precision
from promptsg_core.training import Objective, cosine_factor, progress_of, step_factor, training_forward

# One row of the log: `step`, `epoch`, the means of losses and shares since the row before, and the learning rates.
LogRow = dict[str, float]
# What must be the same where a training continues, in JSON types.
Signature = dict[str, JsonValue]
_LOGGED_RATES = ("tower", "new", "qk")


class Training:
    """A training: the model, its optimizer, the number of steps done, and the rows of the log so far.

    Raises UserError where the images are too few for the configuration.
    """

    def __init__(self, config: TrainConfig, data: TrainingImages) -> None:
        self.config, self.data = config, data
        self.device = resolve_device(config.device)
        self.precision = resolve_training_precision(config.precision, self.device)
        compute_float32(self.precision)
        self.sampler = IdentitySampler(data.labels, config.identities, config.images_each, config.seed)
        self.steps = config.steps or config.epochs * self.sampler.steps_per_epoch
        self.model = build_model(config, len(data.pids)).to(self.device)
        self.optimizer = build_optimizer(self.model, config)
        self.objective = Objective(
            id_weight=config.id_weight,
            triplet_weight=config.triplet_weight,
            contrastive_weight=config.contrastive_weight,
            unit_triplets=config.unit_triplets,
        )
        self.augmentation = Augmentation(erase=config.erase)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.step = 0
        self.rows: list[LogRow] = []
        self._unlogged: list[dict[str, Tensor]] = []
        self.signature = self._signature()

    @property
    def trained_parameters(self) -> int:
        """The number of parameters that the optimizer changes."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def _signature(self) -> Signature:
        init = self.config.init
        signature = self.config.model_dump(mode="json", exclude=set(EXECUTION))
        signature |= {
            "init": None if init is None else sha256_of(init),
            "lr_qk": self.config.rates["qk"],
            "precision": self.precision,
            "steps": self.steps,
            "images": self.data.digest,
            "trained_parameters": self.trained_parameters,
        }
        plain: Signature = json.loads(json.dumps(signature))
        return plain

    def factor(self, step: int) -> float:
        """What the learning rate of every group is multiplied by at a 0-based step."""
        if self.config.schedule == "cosine":
            return cosine_factor(step, self.config.warmup, self.steps)
        milestones = [epoch * self.sampler.steps_per_epoch for epoch in self.config.decay_epochs]
        return step_factor(step, self.config.warmup, milestones)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """(P*K, 3, H, W) augmented uint8 images and (P*K,) labels of a 0-based step, on the device."""
        rows = torch.from_numpy(self.sampler.batch(step))
        rng = np.random.default_rng((self.config.seed, 2, step))
        images = self.augmentation(self.data.images[rows], rng)
        return images.to(self.device, non_blocking=True), self.data.labels[rows].to(self.device, non_blocking=True)

    def advance(self) -> None:
        """One step of the optimizer. It does not wait for the device: the losses are read when they are logged."""
        images, labels = self.batch(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.factor(self.step)
        low = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, low, enabled=low != torch.float32):
            out = training_forward(self.model, images)
        terms = self.objective(out, labels)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(terms["loss"]))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        figures = {**terms, **progress_of(out, labels)}
        self._unlogged.append({name: value.detach() for name, value in figures.items()})

    def log(self) -> None:
        """Adds one row: the means over the steps since the row before. Adds none where there was no step.

        Raises UserError when the loss is not finite any more.
        """
        if not self._unlogged:
            return
        names = list(self._unlogged[0])
        steps = torch.stack([torch.stack([step[name].float() for name in names]) for step in self._unlogged])
        self._unlogged = []
        means = dict(zip(names, steps.mean(dim=0).tolist(), strict=True))
        if not np.isfinite(means["loss"]):
            raise UserError(f"the loss is {means['loss']} at step {self.step}: lower --lr-tower, --lr-new and --lr-qk")
        groups = [group for group in self.optimizer.param_groups if group["name"] in _LOGGED_RATES]
        rates = {f"lr_{group['name']}": group["lr"] for group in groups}
        epoch = self.step / self.sampler.steps_per_epoch
        self.rows.append({"step": self.step, "epoch": round(epoch, 4), **means, **rates})
