"""The model behind a run, loaded again, and the score that the run's maps explain.

Legend: n images, D feature length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import torch
from torch import Tensor

from cam.faithfulness import ClassScore, CosineScore, ImageScore
from cam.targets import FEATURE, Target, class_target, similarity_target
from jobs.atomic import sha256_of
from jobs.errors import UserError
from jobs.faithfulness.plan import FaithfulnessConfig
from jobs.mining.labels import AUTO, labels_for
from jobs.mining.references import References
from jobs.runs.run import Run, open_run
from jobs.shards.samples import Sample
from promptsg_core.checkpoint import load_model
from promptsg_core.config import ModelConfig
from promptsg_core.model import PromptSG
from promptsg_core.precision import can_compute, device_kind, resolve_device, resolve_precision
from promptsg_core.settings import MAP_MODES, Settings
from promptsg_core.tokenise import make_prompt

# Fields that the training code's settings decide and no tensor tells. The run says how it was mined.
_STATED = ("image_size", "stride", "vision_heads", "text_heads", "mim_heads", "reweight", "prompt_mode", "neck_feat",
           "mean", "std")  # fmt: skip


class ExplainedScore(Protocol):
    """What the maps of a run explain, for any of its images; `rows` are metadata rows, `images` their pixels."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the S values that `score` gives. Areas are measured of the first."""

    @property
    def title(self) -> str:
        """The first of them in words."""

    def score(self, rows: pa.Table, images: Tensor) -> ImageScore:
        """The score of these n images, (n, 3, H, W) uint8, and of images made of them."""

    def target(self, rows: pa.Table) -> Target:
        """The target whose gradient makes the maps of these n images."""


@dataclass(frozen=True, kw_only=True)
class ByClass:
    """The score of a class: the predicted one, or with `labels` (pid -> class) that of the image's pid."""

    model: PromptSG
    labels: Mapping[int, int] | None = None
    scores: tuple[str, ...] = ("probability", "logit")

    @property
    def title(self) -> str:
        """What the score is, in words."""
        return "probability of the " + ("predicted class" if self.labels is None else "label's class")

    def score(self, rows: pa.Table, images: Tensor) -> ImageScore:
        """Probability and logit of each image's class."""
        return ClassScore(self.model, self._classes(rows))

    def target(self, rows: pa.Table) -> Target:
        """The logit of each image's class."""
        return class_target(self._classes(rows), "predicted" if self.labels is None else "label")

    def _classes(self, rows: pa.Table) -> Tensor:
        """(n,) int64."""
        if self.labels is None:
            return torch.tensor(rows["predicted"].to_pylist())
        return torch.tensor([self.labels[pid] for pid in rows["pid"].to_pylist()])


@dataclass(frozen=True, kw_only=True)
class ByReference:
    """The cosine of the feature to the mean feature of the person's other images in the reference run."""

    model: PromptSG
    references: References
    scores: tuple[str, ...] = ("cosine",)
    title: str = "cosine to the reference feature"

    def score(self, rows: pa.Table, images: Tensor) -> ImageScore:
        """The cosine to each image's reference."""
        return CosineScore(self.model, self._features(rows))

    def target(self, rows: pa.Table) -> Target:
        """The same cosine."""
        return similarity_target(self._features(rows))

    def _features(self, rows: pa.Table) -> Tensor:
        """(n, D) references."""
        known = [name for name in ("role", "identity") if name in rows.column_names]
        columns = rows.select(["key", "tar_index", "pid", "split", *known]).to_pylist()
        features, _ = self.references.of([Sample(**row) for row in columns], self.model.config.feature_dim)
        return torch.from_numpy(features)


@dataclass(frozen=True, kw_only=True)
class ByItself:
    """The cosine of the feature to that of the unchanged image, for maps of the feature itself."""

    model: PromptSG
    scores: tuple[str, ...] = ("cosine",)
    title: str = "cosine to the image's own feature"

    def score(self, rows: pa.Table, images: Tensor) -> ImageScore:
        """The cosine to each image's own feature."""
        return CosineScore(self.model, self.model(images))

    def target(self, rows: pa.Table) -> Target:
        """The sum of the feature."""
        return FEATURE


def check_checkpoint(run: Run, config: FaithfulnessConfig) -> str:
    """The checkpoint's SHA-256. Raises UserError, naming both, unless it is the one that the run was mined with."""
    if not config.checkpoint.is_file():
        raise UserError(f"the checkpoint {config.checkpoint} does not exist or is not a file")
    mined, here = run.manifest.asked.checkpoint_sha256, sha256_of(config.checkpoint)
    if mined != here and not config.any_checkpoint:
        raise UserError(
            f"{run.layout.root} was mined with a checkpoint of SHA-256 {mined}, but {config.checkpoint} has {here}: "
            "its scores are not those that the maps explain; give the same, or --any-checkpoint to go on"
        )
    return here


def load_mined_model(run: Run, config: FaithfulnessConfig) -> tuple[PromptSG, str]:
    """The model with the settings that the run was mined with, and its precision.

    Raises what `load_model` raises, and UserError where this device cannot compute in the run's precision.
    """
    manifest = run.manifest
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision or manifest.resolved.precision or "auto", device)
    if config.precision is None and not can_compute(precision, device):
        raise UserError(
            f"{config.run} was mined in {precision}, in which {device_kind(device)} cannot compute: use a device that "
            "can, or give --precision fp32"
        )
    mined = ModelConfig.fields_from(manifest.resolved.model)
    # Where the checkpoint needed its modes stated, they were when the run was mined.
    settings = Settings(
        model={name: mined[name] for name in _STATED if name in mined}, stated_modes=frozenset(MAP_MODES)
    )
    key = config.weights_key or manifest.asked.weights_key
    model = load_model(config.checkpoint, device=str(device), precision=precision, settings=settings, weights_key=key)
    model.prompts.update({name: make_prompt(text) for name, text in manifest.asked.prompts.items()})
    return model, precision


def explained_score(run: Run, config: FaithfulnessConfig, model: PromptSG) -> ExplainedScore:
    """The score behind the run's target. Raises UserError where a file that it needs is missing or is not the run's."""
    target = run.manifest.asked.target
    if target == "predicted":
        return ByClass(model=model)
    if target == "label":
        return ByClass(model=model, labels=_labels(run, config, model))
    if target == "similarity" and config.reference is not None:
        return ByReference(model=model, references=_references(run, config))
    if target == "similarity" and config.sanity:
        raise UserError("the target similarity needs --reference RUN for the sanity check, or --no-sanity")
    return ByItself(model=model)


def _labels(run: Run, config: FaithfulnessConfig, model: PromptSG) -> Mapping[int, int]:
    """pid -> class, as when the run was mined."""
    mined, learned = run.manifest.asked.label_map, run.manifest.resolved.label_map
    if mined == AUTO and learned is not None:
        if config.label_map is not None:
            raise UserError(f"--label-map is {config.label_map}, but {run.layout.root} has its own: do not give one")
        return learned
    if mined != (sha256_of(config.label_map) if config.label_map is not None else None):
        what = "without one" if mined is None else f"with one of SHA-256 {mined}"
        raise UserError(f"--label-map is {config.label_map}, but {run.layout.root} was mined {what}: give the same")
    return labels_for(config.find(run.manifest.shards), config.label_map, model.config.num_classes)


def _references(run: Run, config: FaithfulnessConfig) -> References:
    """The reference features, as when the run was mined."""
    assert config.reference is not None
    mined, here = run.manifest.asked, open_run(config.reference).manifest.fingerprint
    if here != mined.reference and not config.any_checkpoint:
        raise UserError(
            f"{run.layout.root} was mined with a reference run of fingerprint {mined.reference}, "
            f"but {config.reference} has {here}: give the same"
        )
    return References(config.reference, mined.reference_split)
