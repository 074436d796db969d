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

from cam.faithfulness import ClassScore, CosineScore, ImageScore, TextScore
from cam.targets import FEATURE, Target, class_target, nearest_texts, similarity_target, text_target
from jobs.atomic import sha256_of
from jobs.errors import UserError
from jobs.faithfulness.images import CAPTION
from jobs.faithfulness.plan import FaithfulnessConfig
from jobs.mining.camera_rows.source import HowExplained, cameras_of_run
from jobs.mining.early.files import check_checkpoint_file
from jobs.mining.labels import AUTO, labels_for
from jobs.mining.references import References
from jobs.progress import told
from jobs.runs.run import Run, open_run
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import Sample
from promptsg_core.cameras import Cameras
from promptsg_core.checkpoint import load_model
from promptsg_core.families.registry import config_of
from promptsg_core.model import AnyModel
from promptsg_core.precision import (
    can_compute,
    compute_deterministically,
    device_kind,
    resolve_device,
    resolve_precision,
)
from promptsg_core.prompts import Captions
from promptsg_core.settings import MAP_MODES, Settings
from promptsg_core.tokenise import make_prompt


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

    def target(self, rows: pa.Table, images: Tensor) -> Target:
        """The target whose gradient makes the maps of these n images, (n, 3, H, W) uint8."""

    @property
    def how(self) -> HowExplained:
        """The head that is explained, and where cameras come from."""


@dataclass(frozen=True, kw_only=True)
class ByClass:
    """The score of a class: the predicted one, or with `labels` (pid -> class) that of the image's pid."""

    model: AnyModel
    how: HowExplained
    labels: Mapping[int, int] | None = None
    scores: tuple[str, ...] = ("probability", "logit")

    @property
    def title(self) -> str:
        """What the score is, in words."""
        return "probability of the " + ("predicted class" if self.labels is None else "label's class")

    def score(self, rows: pa.Table, images: Tensor) -> ImageScore:
        """Probability and logit of each image's class."""
        return ClassScore(self.model, self._classes(rows), self.how.head, cameras_of_rows(self.how, rows))

    def target(self, rows: pa.Table, images: Tensor) -> Target:
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

    model: AnyModel
    how: HowExplained
    references: References
    scores: tuple[str, ...] = ("cosine",)
    title: str = "cosine to the reference feature"

    def score(self, rows: pa.Table, images: Tensor) -> ImageScore:
        """The cosine to each image's reference."""
        return CosineScore(self.model, self._features(rows), cameras_of_rows(self.how, rows))

    def target(self, rows: pa.Table, images: Tensor) -> Target:
        """The same cosine."""
        return similarity_target(self._features(rows))

    def _features(self, rows: pa.Table) -> Tensor:
        """(n, D) references."""
        known = [name for name in ("role", "identity") if name in rows.column_names]
        columns = rows.select(["key", "tar_index", "pid", "split", *known]).to_pylist()
        features, _ = self.references.of(
            SampleColumns.of(Sample(**row) for row in columns), self.model.config.feature_dim
        )
        return torch.from_numpy(features)


@dataclass(frozen=True, kw_only=True)
class ByItself:
    """The cosine of the feature to that of the unchanged image, for maps of the feature itself."""

    model: AnyModel
    how: HowExplained
    scores: tuple[str, ...] = ("cosine",)
    title: str = "cosine to the image's own feature"

    def score(self, rows: pa.Table, images: Tensor) -> ImageScore:
        """The cosine to each image's own feature."""
        cameras = cameras_of_rows(self.how, rows)
        return CosineScore(self.model, self.model(images, cameras), cameras)

    def target(self, rows: pa.Table, images: Tensor) -> Target:
        """The sum of the feature."""
        return FEATURE


@dataclass(frozen=True, kw_only=True)
class ByText:
    """The likeness to the text, which the maps explain under the target `text`.

    Where an image chooses from several texts, it is the one that the whole image is most like by the trained model.
    """

    model: AnyModel
    how: HowExplained
    scores: tuple[str, ...] = ("likeness",)
    title: str = "likeness to the text"

    def score(self, rows: pa.Table, images: Tensor) -> ImageScore:
        """The likeness to each image's text."""
        cameras, captions = cameras_of_rows(self.how, rows), captions_of_rows(rows)
        return TextScore(self.model, self._nearest(rows, images), cameras, captions)

    def target(self, rows: pa.Table, images: Tensor) -> Target:
        """The same likeness."""
        return text_target(self._nearest(rows, images))

    def _nearest(self, rows: pa.Table, images: Tensor) -> Tensor:
        """(n,) the number of each image's text."""
        encoded = self.model.encode(images, cameras_of_rows(self.how, rows), captions_of_rows(rows))
        return nearest_texts(self.model.head(encoded, native=()))


def cameras_of_rows(how: HowExplained, rows: pa.Table) -> Cameras | None:
    """The cameras of n metadata rows, as they were mined. Rows without one have no maps."""
    return how.cameras.of(rows["camid"].to_pylist()).cameras


def captions_of_rows(rows: pa.Table) -> Captions | None:
    """The captions of n rows, where they have a column of them and one of them has one."""
    captions = rows[CAPTION].to_pylist() if CAPTION in rows.column_names else []
    return captions if any(captions) else None


def check_checkpoint(run: Run, config: FaithfulnessConfig) -> str:
    """The checkpoint's SHA-256. Raises UserError, naming both, unless it is the one that the run was mined with."""
    check_checkpoint_file(config.checkpoint)
    mined, here = run.manifest.asked.checkpoint_sha256, sha256_of(config.checkpoint)
    if mined != here and not config.any_checkpoint:
        raise UserError(
            f"{run.layout.root} was mined with a checkpoint of SHA-256 {mined}, but {config.checkpoint} has {here}: "
            "its scores are not those that the maps explain; give the same, or --any-checkpoint to go on"
        )
    return here


@told("loading the checkpoint")
def load_mined_model(run: Run, config: FaithfulnessConfig) -> tuple[AnyModel, str]:
    """The model with the settings that the run was mined with, and its precision.

    Raises what `load_model` raises, and UserError where this device cannot compute in the run's precision.
    """
    manifest = run.manifest
    device = resolve_device(config.device)
    mined_in = manifest.resolved.precision
    if config.precision is None and mined_in is not None and not can_compute(mined_in, device):
        raise UserError(
            f"{config.run} was mined in {mined_in}, in which {device_kind(device)} cannot compute: use a device that "
            "can, or give --precision fp32"
        )
    precision = resolve_precision(config.precision or mined_in or "auto", device)
    compute_deterministically()
    # What no tensor tells, as it was when the run was mined; the modes too, where the checkpoint needed them stated.
    mined = config_of(manifest.resolved.model.get("family")).stated_in(manifest.resolved.model)
    settings = Settings(model=mined, stated_modes=frozenset(MAP_MODES))
    key = config.weights_key or manifest.asked.weights_key
    model = load_model(config.checkpoint, device=str(device), precision=precision, settings=settings, weights_key=key)
    model.add_prompts({name: make_prompt(text) for name, text in manifest.asked.prompts.items()})
    return model, precision


def explained_score(run: Run, config: FaithfulnessConfig, model: AnyModel) -> ExplainedScore:
    """The score behind the run's target. Raises UserError where a file that it needs is missing or is not the run's."""
    asked = run.manifest.asked
    target, how = asked.target, HowExplained(asked.head, cameras_of_run(model, asked, run.manifest.resolved))
    if target == "predicted":
        return ByClass(model=model, how=how)
    if target == "label":
        return ByClass(model=model, how=how, labels=_labels(run, config, model))
    if target == "text":
        return ByText(model=model, how=how)
    if target == "similarity" and config.reference is not None:
        return ByReference(model=model, how=how, references=_references(run, config))
    if target == "similarity" and config.sanity:
        raise UserError("the target similarity needs --reference RUN for the sanity check, or --no-sanity")
    return ByItself(model=model, how=how)


def _labels(run: Run, config: FaithfulnessConfig, model: AnyModel) -> Mapping[int, int]:
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
    mined, here = run.manifest.asked, open_run(config.reference).manifest.list_fingerprint
    if here != mined.reference and not config.any_checkpoint:
        raise UserError(
            f"{run.layout.root} was mined with a reference run of fingerprint {mined.reference}, "
            f"but {config.reference} has {here}: give the same"
        )
    return References(config.reference, mined.reference_split)
