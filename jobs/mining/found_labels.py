"""The labels of a run: the usual ones or a file's, checked against the model's predictions, or learned from them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from jobs.errors import UserError
from jobs.mining.camera_rows.source import NO_CAMERAS, CameraSource
from jobs.mining.config import MineConfig
from jobs.mining.label_agreement import Prediction, check_labels, compare, in_words, learn_labels
from jobs.mining.labels import AUTO, labels_for, training_pids
from jobs.mining.predictions import predict
from jobs.phrases import counted
from jobs.runs.manifest import Manifest
from jobs.runs.request import LabelAgreement
from jobs.shards.person_sample import PersonSample
from jobs.shards.urls import Shard
from promptsg_core.model import AnyModel

logger = logging.getLogger(__name__)

CHECKED_PERSONS, CHECKED_IMAGES = 100, 300
_OF_A_PERSON = 8  # at most, in a check
LEARNED_IMAGES = 5  # of each person


@dataclass(frozen=True, kw_only=True)
class FoundLabels:
    """pid -> class. `agreement` is how predictions compare with them; None where the run has it already."""

    labels: Mapping[int, int]
    agreement: LabelAgreement | None = None


def find_labels(
    config: MineConfig,
    shards: Sequence[Shard],
    model: AnyModel,
    earlier: Manifest | None = None,
    cameras: CameraSource = NO_CAMERAS,
) -> FoundLabels:
    """The labels for the target `label`. What `earlier`, the run that is continued, has is neither learned nor checked
    again.

    Raises UserError where the labels are not the model's classes, or cannot be learned.
    """
    if config.label_map == AUTO:
        if earlier is not None and earlier.resolved.label_map is not None:
            return FoundLabels(labels=earlier.resolved.label_map)
        return _learn(config, shards, model, cameras)
    label_map = config.label_map if isinstance(config.label_map, Path) else None
    if earlier is not None and earlier.label_agreement is not None:
        return FoundLabels(labels=labels_for(shards, label_map, model.config.num_classes))
    return _check(config, shards, model, label_map, cameras)


def _check(
    config: MineConfig, shards: Sequence[Shard], model: AnyModel, label_map: Path | None, cameras: CameraSource
) -> FoundLabels:
    drawn = PersonSample(CHECKED_PERSONS, _OF_A_PERSON)
    labels = labels_for(shards, label_map, model.config.num_classes, drawn)
    each = max(2, CHECKED_IMAGES // max(1, len(drawn.persons())))
    predictions = _predict(config, model, drawn, each, cameras)
    return FoundLabels(labels=labels, agreement=check_labels(predictions, labels, model.config.num_classes, label_map))


def _learn(config: MineConfig, shards: Sequence[Shard], model: AnyModel, cameras: CameraSource) -> FoundLabels:
    drawn = PersonSample(None, LEARNED_IMAGES)
    pids = training_pids(shards, drawn, enough=model.config.num_classes)
    if len(pids) != model.config.num_classes:
        raise UserError(
            f"--label-map auto: the training shards have {counted(len(pids), 'pid')}, but the checkpoint has "
            f"{counted(model.config.num_classes, 'class', 'classes')}: list all training shards"
        )
    logger.info("--label-map auto: learning the classes of %s", counted(len(pids), "person"))
    predictions = _predict(config, model, drawn, LEARNED_IMAGES, cameras)
    labels = learn_labels(predictions, pids)
    agreement = compare(predictions, labels, model.config.num_classes)
    logger.info("--label-map auto: learned; %s", in_words(agreement))
    return FoundLabels(labels=labels, agreement=agreement)


def _predict(
    config: MineConfig, model: AnyModel, drawn: PersonSample, each: int, cameras: CameraSource
) -> list[Prediction]:
    images = [image for images in drawn.persons().values() for image in islice(images, each)]
    found = predict(
        model,
        images,
        cameras,
        interpolation=config.interpolation,
        max_image_pixels=config.max_image_pixels,
    )
    return found.of_persons()
