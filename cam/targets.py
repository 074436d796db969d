"""Targets: the scalar per image that is differentiated.

Legend: B batch, C classes, F feature length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cam.errors import CamError


class Scored(Protocol):
    """What a target reads of a model's output: logits (B, C) and features (B, F)."""

    @property
    def logits(self) -> Tensor: ...

    @property
    def features(self) -> Tensor: ...


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


TARGETS: Mapping[str, Target] = {
    "predicted": Target("predicted", "logits", _predicted),
    "feature": Target("feature", "features", _feature),
}


def resolve_target(target: str | Target) -> Target:
    """A target by its name, or itself. Raises CamError naming the valid ones."""
    if isinstance(target, Target):
        return target
    if target not in TARGETS:
        raise CamError(f"unknown target {target!r}; targets are {', '.join(TARGETS)}")
    return TARGETS[target]
