"""Targets: the score of each image that is differentiated.

Legend: B batch, C classes, F feature length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, tensor

from cam.errors import CamError

LOGITS = "logits"
FEATURES = "features"


class Scored(Protocol):
    """What a target reads of a model's output."""

    @property
    def logits(self) -> Tensor:
        """(B, C) of the head that the maps explain."""

    @property
    def features(self) -> Tensor:
        """(B, F) retrieval features."""


@dataclass(frozen=True)
class Target:
    """A named score. `output` is the output that it starts from, "logits" or "features"; `score` gives (B,)."""

    name: str
    output: str
    score: Callable[[Scored], Tensor]


def _predicted(out: Scored) -> Tensor:
    return out.logits.float().amax(dim=1)


def _feature(out: Scored) -> Tensor:
    return out.features.float().sum(dim=1)


PREDICTED = Target("predicted", LOGITS, _predicted)
FEATURE = Target("feature", FEATURES, _feature)
# The targets that need no data.
TARGETS: Mapping[str, Target] = {target.name: target for target in (PREDICTED, FEATURE)}
# The output that each target starts from. `class_target` and `similarity_target` make those that need data.
TARGET_OUTPUTS: Mapping[str, str] = {
    "predicted": LOGITS,
    "label": LOGITS,
    "feature": FEATURES,
    "similarity": FEATURES,
}


def class_target(classes: Tensor, name: str = "label") -> Target:
    """The logit of a class: one for each image, (B,) int64, or one for all, ().

    The score raises CamError for another number of images and for a class that the head does not have.
    """
    return Target(name, LOGITS, _ClassLogit(classes))


def similarity_target(references: Tensor) -> Target:
    """The cosine of each image's feature to its reference (B, F), a constant of any length but zero."""
    return Target("similarity", FEATURES, _Cosine(references))


def output_of(name: str) -> str:
    """The model's output that a target of this name starts from. Raises CamError naming the valid ones."""
    if name not in TARGET_OUTPUTS:
        raise CamError(f"unknown target {name!r}; targets are {', '.join(TARGET_OUTPUTS)}")
    return TARGET_OUTPUTS[name]


def resolve_target(target: str | Target | int | Tensor) -> Target:
    """A target by its name, by a class number for all images, by (B,) class numbers, or a Target itself.

    Raises CamError naming the valid ones.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, Tensor):
        return class_target(target.long())
    if isinstance(target, int):
        return class_target(tensor(target))
    if target in TARGETS:
        return TARGETS[target]
    output_of(target)
    raise CamError(f"the target {target} needs data: use cam.class_target or cam.similarity_target")


@dataclass(frozen=True)
class _ClassLogit:
    classes: Tensor

    def __call__(self, out: Scored) -> Tensor:
        logits, classes = out.logits.float(), self.classes.to(out.logits.device)
        images, known = logits.shape
        index = classes.expand(images) if classes.ndim == 0 else classes.reshape(-1)
        if len(index) != images:
            raise CamError(f"{len(index)} classes were given for {images} images")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < known:
            raise CamError(f"classes {int(index.min())} to {int(index.max())} were requested; the head has {known}")
        return logits.gather(1, index.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class _Cosine:
    references: Tensor

    def __call__(self, out: Scored) -> Tensor:
        references = F.normalize(self.references.detach().to(out.features.device).float(), dim=1)
        return (F.normalize(out.features.float(), dim=1) * references).sum(dim=1)
