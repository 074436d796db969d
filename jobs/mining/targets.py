"""What is differentiated, batch by batch: targets that need data beside the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cam.targets import Target, class_target, resolve_target, similarity_target
from jobs.atomic import sha256_of
from jobs.errors import UserError
from jobs.mining.config import MineConfig
from jobs.mining.labels import labels_for
from jobs.mining.references import References
from jobs.runs.manifest import Manifest
from jobs.shards.samples import NO_LABEL, NO_REFERENCE, Sample
from jobs.shards.urls import Shard
from promptsg_core.model import PromptSG


@dataclass(frozen=True)
class BatchTarget:
    """The target of one batch; `known` (B,) says which rows have one, or is None if all have.

    A row without one is differentiated by zero, and its maps of that target are not results; `status` and `error`
    are what its row says.
    """

    target: Target
    known: NDArray[np.bool_] | None = None
    status: str = ""
    error: str = ""


class TargetSource(Protocol):
    """Gives each batch its target."""

    def __call__(self, samples: Sequence[Sample]) -> BatchTarget: ...


def target_source(config: MineConfig, shards: Sequence[Shard], model: PromptSG) -> TargetSource:
    """The source for a run's target; reads what it needs at once. Raises UserError where that is not there."""
    if config.target == "label":
        labels = labels_for(shards, config.label_map, model.config.num_classes)
        return lambda samples: _labelled(samples, labels)
    if config.target == "similarity":
        if config.reference is None:
            raise UserError("the target similarity needs --reference RUN: an earlier run with the features to compare")
        references = References(config.reference, config.reference_split)
        wanted = model.config.feature_dim
        _refuse_other_features(config, references.run.manifest, model)
        return lambda samples: _compared(samples, references, wanted)
    fixed = BatchTarget(resolve_target(config.target))
    return lambda samples: fixed


def _refuse_other_features(config: MineConfig, manifest: Manifest, model: PromptSG) -> None:
    """Raises UserError where the reference run's features are another model's: their cosines would mean nothing."""
    there, here = manifest.resolved.model, model.config.to_dict()
    differing = [
        f"{name} {there.get(name)} there, {value} here" for name, value in here.items() if there.get(name) != value
    ]
    before, now = manifest.asked.checkpoint_sha256 or "unknown", sha256_of(config.checkpoint)
    if before != now:
        differing.insert(0, f"checkpoint {before[:12]}... there, {now[:12]}... here")
    if differing:
        raise UserError(f"the reference run {config.reference} has features of another model: {'; '.join(differing)}")


def _labelled(samples: Sequence[Sample], labels: Mapping[int, int]) -> BatchTarget:
    found = [labels.get(s.pid) if s.pid is not None else None for s in samples]
    known = np.array([label is not None for label in found])
    classes = torch.tensor([0 if label is None else label for label in found])
    return BatchTarget(class_target(classes), known, NO_LABEL, "its pid is not a class of the checkpoint")


def _compared(samples: Sequence[Sample], references: References, dimension: int) -> BatchTarget:
    features, known = references.of(samples, dimension)
    target = similarity_target(torch.from_numpy(features))
    return BatchTarget(target, known, NO_REFERENCE, "no other image of its pid is in the reference run")
