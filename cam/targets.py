"""Targets: the scalar per image that is differentiated.

Legend: B batch, C classes, F feature length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cam.errors import CamError


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
    """A named score; `output` says which of the model's outputs it starts from, `score` gives (B,)."""

    name: str
    output: str
    score: Callable[[Scored], Tensor]


def _predicted(out: Scored) -> Tensor:
    return out.logits.float().amax(dim=1)


def _feature(out: Scored) -> Tensor:
    return out.features.float().sum(dim=1)


PREDICTED = Target("predicted", "logits", _predicted)
FEATURE = Target("feature", "features", _feature)
TARGETS: Mapping[str, Target] = {"predicted": PREDICTED, "feature": FEATURE}
# What a target of each name starts from; `label` and `similarity` also need data, see the functions below.
TARGET_OUTPUTS: Mapping[str, str] = {
    "predicted": "logits",
    "label": "logits",
    "feature": "features",
    "similarity": "features",
}


def class_target(classes: Tensor, name: str = "label") -> Target:
    """The logit of a given class (B,) int64 per image. The score raises CamError for a class that the head lacks."""

    def score(out: Scored) -> Tensor:
        index = classes.to(out.logits.device).reshape(-1)
        if classes.ndim == 0:
            index = index.expand(len(out.logits))
        if len(index) != len(out.logits):
            raise CamError(f"{len(index)} classes were given for {len(out.logits)} images")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < out.logits.shape[1]:
            raise CamError(
                f"classes {int(index.min())} to {int(index.max())} were asked for; the head has {out.logits.shape[1]}"
            )
        return out.logits.float().gather(1, index.unsqueeze(1)).squeeze(1)

    return Target(name, "logits", score)


def similarity_target(references: Tensor) -> Target:
    """The cosine of each image's feature to its reference (B, F), which is a constant of any length but zero."""

    def score(out: Scored) -> Tensor:
        wanted = F.normalize(references.detach().to(out.features.device).float(), dim=1)
        return (F.normalize(out.features.float(), dim=1) * wanted).sum(dim=1)

    return Target("similarity", "features", score)


def output_of(name: str) -> str:
    """The model's output that a target of this name starts from. Raises CamError naming the valid ones."""
    if name not in TARGET_OUTPUTS:
        raise CamError(f"unknown target {name!r}; targets are {', '.join(TARGET_OUTPUTS)}")
    return TARGET_OUTPUTS[name]


def resolve_target(target: str | Target | int | Tensor) -> Target:
    """A target by its name, a class number for all images, (B,) class numbers, or a Target itself.

    Raises CamError naming the valid ones.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, Tensor):
        return class_target(target.long())
    if isinstance(target, int):
        return Target("label", "logits", lambda out: class_target(torch.full((len(out.logits),), target)).score(out))
    if target in TARGETS:
        return TARGETS[target]
    output_of(target)
    raise CamError(f"the target {target} needs data: use cam.targets.class_target or similarity_target")
