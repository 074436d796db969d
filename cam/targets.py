"""Targets: the score of each image that is differentiated.

Legend: B batch, C classes, F feature length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, tensor

from cam.errors import CamError

LOGITS = "logits"
FEATURES = "features"
TEXT = "text"


class Scored(Protocol):
    """What a target reads of a model's output."""

    @property
    def logits(self) -> Tensor:
        """(B, C) whose largest is the predicted class."""

    @property
    def scores(self) -> Tensor:
        """(B, C) of the head that the maps explain."""

    @property
    def features(self) -> Tensor:
        """(B, F) retrieval features."""

    @property
    def text_scores(self) -> Tensor | None:
        """(B, T) the likeness to each text that an image chooses from: its text is the one of the largest. None for a
        model without texts, or where the images have none.
        """

    @property
    def text_problem(self) -> str | None:
        """Why there are no `text_scores`, where the model has a reason to tell."""


@dataclass(frozen=True)
class Target:
    """A named score. `output` is the output that it starts from: logits, features or text; `score` gives (B,)."""

    name: str
    output: str
    score: Callable[[Scored], Tensor]


def predicted_class(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C) -> (B,) the class with the largest logit, and its softmax; -1 and NaN for a model without classes."""
    if not logits.shape[1]:
        rows = len(logits)
        return logits.new_full((rows,), -1, dtype=torch.int64), logits.new_full((rows,), torch.nan, dtype=torch.float32)
    probability, predicted = logits.detach().float().softmax(dim=1).max(dim=1)
    return predicted, probability


def no_classes_error(target: str, others: Sequence[str] = ("feature", "similarity", "text")) -> CamError:
    """The error for a model without a classifier. `others` are the targets to take instead."""
    instead = ", ".join(others)
    return CamError(f"the target {target} needs a classifier, and this checkpoint has none; take {instead}")


def _predicted(out: Scored) -> Tensor:
    if not out.scores.shape[1]:
        raise no_classes_error("predicted")
    predicted = out.logits.detach().argmax(dim=1, keepdim=True)
    return out.scores.float().gather(1, predicted).squeeze(1)


def _feature(out: Scored) -> Tensor:
    return out.features.float().sum(dim=1)


def _text(out: Scored) -> Tensor:
    return _text_scores(out).float().amax(dim=1)


def _text_scores(out: Scored) -> Tensor:
    """(B, T). Raises CamError where there are none."""
    if out.text_scores is None:
        raise CamError(f"the target text: {out.text_problem or 'it needs a model that reads texts'}")
    return out.text_scores


PREDICTED = Target("predicted", LOGITS, _predicted)
FEATURE = Target("feature", FEATURES, _feature)
TEXT_LIKENESS = Target("text", TEXT, _text)
# The targets that need no data.
TARGETS: Mapping[str, Target] = {target.name: target for target in (PREDICTED, FEATURE, TEXT_LIKENESS)}
# The output that each target starts from. `class_target` and `similarity_target` make those that need data.
TARGET_OUTPUTS: Mapping[str, str] = {
    "predicted": LOGITS,
    "label": LOGITS,
    "feature": FEATURES,
    "similarity": FEATURES,
    "text": TEXT,
}


def class_target(classes: Tensor, name: str = "label") -> Target:
    """The logit of a class: one for each image, (B,) int64, or one for all, ().

    They are read here, and so are best on the CPU: of a tensor on a GPU the host has to wait for the numbers. The score
    raises CamError for another number of images and for a class that the head does not have.
    """
    span = (int(classes.min()), int(classes.max())) if classes.numel() else None
    return Target(name, LOGITS, _ClassLogit(classes, span))


def similarity_target(references: Tensor) -> Target:
    """The cosine of each image's feature to its reference (B, F), a constant of any length but zero."""
    return Target("similarity", FEATURES, _Cosine(references))


def text_target(texts: Tensor) -> Target:
    """The likeness to a text that stays the same for every model and image: (B,) int64 numbers of `nearest_texts`.

    They are read here, as the classes of `class_target` are. The score raises CamError for a model that has not these
    texts.
    """
    return Target("text", TEXT, _LikenessTo(texts, int(texts.max()) if texts.numel() else None))


def target_of_output(target: Target, out: Scored) -> Target:
    """The target with the class, or the text, that follows from this output, for other outputs of the same images.

    Only the targets `predicted` and `text` follow from an output. Nothing is read by the host.
    """
    if target is PREDICTED:
        return Target(target.name, LOGITS, _ClassLogit(predicted_class(out.logits)[0], None))
    return Target(target.name, TEXT, _LikenessTo(nearest_texts(out), None)) if target is TEXT_LIKENESS else target


def data_of(target: Target) -> Tensor | None:
    """The classes, texts or references (B, ...) that a target was made with; None for one without data."""
    score = target.score
    return score.data if isinstance(score, _WITH_DATA) else None


def check_classes(target: Target, known: int) -> None:
    """Raises CamError where the target is the logit of a class, and a head of so many classes has not all of them."""
    if isinstance(target.score, _ClassLogit):
        target.score.check(known)


def with_data(target: Target, data: Tensor) -> Target:
    """The same target with its data elsewhere, as on another device: equal numbers, which are not checked again.

    Raises CamError for a target without data.
    """
    score = target.score
    if not isinstance(score, _WITH_DATA):
        raise CamError(f"the target {target.name} has no data")
    return replace(target, score=replace(score, data=data))


def nearest_texts(out: Scored) -> Tensor:
    """(B,) int64: which of the texts that it chooses from each image is most like. Raises CamError without texts."""
    return _text_scores(out).detach().argmax(dim=1)


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
    """`span` is the smallest and the largest class; None where they are known to be the head's."""

    data: Tensor
    span: tuple[int, int] | None

    def __call__(self, out: Scored) -> Tensor:
        scores = out.scores.float()
        images, known = scores.shape
        if not known:
            raise no_classes_error("label")
        index = self.data.expand(images) if self.data.ndim == 0 else self.data.reshape(-1)
        if len(index) != images:
            raise CamError(f"{len(index)} classes were given for {images} images")
        self.check(known)
        return scores.gather(1, index.to(scores.device).unsqueeze(1)).squeeze(1)

    def check(self, known: int) -> None:
        """Raises CamError where a head of so many classes has not all of these."""
        if self.span is not None and not 0 <= self.span[0] <= self.span[1] < known:
            raise CamError(f"classes {self.span[0]} to {self.span[1]} were requested; the head has {known}")


@dataclass(frozen=True)
class _LikenessTo:
    """`last` is the largest of the numbers; None where the model is known to have these texts."""

    data: Tensor
    last: int | None

    def __call__(self, out: Scored) -> Tensor:
        scores = _text_scores(out)
        if self.last is not None and self.last >= scores.shape[1]:
            raise CamError("the target text: this model has not the text that was chosen for an image")
        return scores.float().gather(1, self.data.to(scores.device).unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class _Cosine:
    data: Tensor

    def __call__(self, out: Scored) -> Tensor:
        references = F.normalize(self.data.detach().to(out.features.device).float(), dim=1)
        return (F.normalize(out.features.float(), dim=1) * references).sum(dim=1)


_WITH_DATA = (_ClassLogit, _LikenessTo, _Cosine)
