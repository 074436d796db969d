"""What is differentiated, batch by batch: a fixed target, each image's own class, or the cosine to a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from cam.targets import Target, class_target, resolve_target, similarity_target
from jobs.arrays import BoolArray
from jobs.atomic import sha256_of
from jobs.errors import UserError
from jobs.mining.camera_rows.compared import ChosenRows
from jobs.mining.config import MineConfig
from jobs.mining.labels import classes_of
from jobs.mining.references import References
from jobs.runs.manifest import Manifest
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import NO_LABEL, NO_REFERENCE
from promptsg_core.model import AnyModel


@dataclass(frozen=True)
class BatchTarget:
    """The target of one batch of B images; `known` (B,) says which of them have one, or is None if all have.

    For the others a placeholder is differentiated, and their maps of this target are discarded. `status` and `error`
    are for the rows of these images.
    """

    target: Target
    known: BoolArray | None = None
    status: str = ""
    error: str = ""


class TargetSource(Protocol):
    """Gives each batch its target."""

    def of(self, samples: SampleColumns) -> BatchTarget:
        """The target of a batch; `samples` are those of its images, in their order."""


@dataclass(frozen=True)
class FixedTarget:
    """The same target for all images."""

    target: Target

    def of(self, samples: SampleColumns) -> BatchTarget:
        """The target of a batch."""
        return BatchTarget(self.target)


@dataclass(frozen=True)
class LabelTarget:
    """The logit of each image's own training class; `labels` are the classes by pid."""

    labels: Mapping[int, int]

    def of(self, samples: SampleColumns) -> BatchTarget:
        """The target of a batch. An image whose person is not a training class has none."""
        found = classes_of(samples, self.labels)
        known = np.array([label is not None for label in found], np.bool_)
        classes = torch.tensor([0 if label is None else label for label in found])
        return BatchTarget(class_target(classes), known, NO_LABEL, "its pid is not a class of the checkpoint")


@dataclass(frozen=True)
class SimilarityTarget:
    """The cosine of each image's feature to the mean feature of its person's other images in an earlier run.

    `dimension` is the length of the model's features.
    """

    references: References
    dimension: int

    def of(self, samples: SampleColumns) -> BatchTarget:
        """The target of a batch. An image whose person has no other image in the earlier run has none."""
        features, known = self.references.of(samples, self.dimension)
        target = similarity_target(torch.from_numpy(features))
        return BatchTarget(target, known, NO_REFERENCE, "no other image of its pid is in the reference run")


def target_source(
    config: MineConfig,
    model: AnyModel,
    labels: Mapping[int, int] | None = None,
    rows: ChosenRows | None = None,
) -> TargetSource:
    """The target of a run, with the labels (pid -> class) or references that it needs.

    `rows` are those of the camera embedding, which the reference run must have chosen too; None where it does not
    matter. Raises UserError where labels or references are not there, or do not fit.
    """
    if config.target == "label":
        assert labels is not None, "the target label has labels"
        return LabelTarget(labels)
    if config.target == "similarity":
        if config.reference is None:
            raise UserError("the target similarity needs --reference RUN: an earlier run with the features to compare")
        references = References(config.reference, config.reference_split)
        _refuse_other_features(config, references.run.manifest, model, rows)
        return SimilarityTarget(references, model.config.feature_dim)
    return FixedTarget(resolve_target(config.target))


def _refuse_other_features(config: MineConfig, manifest: Manifest, model: AnyModel, rows: ChosenRows | None) -> None:
    """Raises UserError where the reference run's features are another model's: their cosines would mean nothing."""
    there, here = manifest.resolved.model, model.config.to_dict()
    differing = [
        f"{name} {there.get(name)} there, {value} here" for name, value in here.items() if there.get(name) != value
    ]
    before, now = manifest.asked.checkpoint_sha256 or "unknown", sha256_of(config.checkpoint)
    if before != now:
        differing.insert(0, f"checkpoint {before[:12]}... there, {now[:12]}... here")
    cameras = ChosenRows.of_run(manifest)
    if rows is not None and model.camera_rows and cameras.what_counts != rows.what_counts:
        differing.append(f"cameras by {cameras} there, by {rows} here")
    if differing:
        raise UserError(f"the reference run {config.reference} has features of another model: {'; '.join(differing)}")
