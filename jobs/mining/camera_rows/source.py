"""Which row of a model's camera embedding each image gets, and why an image gets none.

The rows are the cameras of the training set, as `promptsg shard` counts them: from 0. The cameras of another data set
mean nothing in that numbering, so they are used only where the user says that it is the same one, or maps them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import torch

from jobs.errors import UserError
from jobs.mining.camera_rows.mapped import warn_of_unmapped
from jobs.mining.camera_rows.options import CameraOptions
from jobs.mining.camera_rows.trained_on import check_trained_on
from jobs.mining.number_maps import read_camera_map
from jobs.phrases import counted
from jobs.runs.request import RequestedSettings, ResolvedSettings
from jobs.shards.urls import Shard
from promptsg_core.cameras import Cameras
from promptsg_core.model import AnyModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchCameras:
    """The cameras of a batch of B images; `errors` (B,) says why an image has none, or is empty if all have one."""

    cameras: Cameras | None
    errors: tuple[str | None, ...] = ()


class CameraSource(Protocol):
    """Gives each batch its cameras."""

    def of(self, camids: Sequence[int | None]) -> BatchCameras:
        """The cameras of a batch whose images have these cameras by their data set, from 0; None is not known."""


@dataclass(frozen=True)
class SameCamera:
    """The same for all images: a row, the mean of all rows, or none."""

    cameras: int | Literal["mean", "none"] | None

    def of(self, camids: Sequence[int | None]) -> BatchCameras:
        """The cameras of a batch."""
        return BatchCameras(self.cameras)


NO_CAMERAS = SameCamera(None)  # for a model without a camera embedding


@dataclass(frozen=True)
class OwnCameras:
    """Each image's own camera, or what `mapping` (camid -> row) makes of it; the embedding has so many `rows`."""

    rows: int
    mapping: Mapping[int, int] | None = None

    def of(self, camids: Sequence[int | None]) -> BatchCameras:
        """The cameras of a batch. An image whose camera has no row gets row 0 in its place, and its error."""
        found = [self._row(camid) for camid in camids]
        errors = tuple(one if isinstance(one, str) else None for one in found)
        rows = torch.tensor([0 if isinstance(one, str) else one for one in found], dtype=torch.long)
        return BatchCameras(rows, errors if any(errors) else ())

    def _row(self, camid: int | None) -> int | str:
        """The row of a camera, or what is wrong with it."""
        if camid is None or camid < 0:
            return "its camera is not known, and the model has a camera embedding"
        row = camid if self.mapping is None else self.mapping.get(camid)
        if row is None:
            return f"its camera {camid} is not in --camera-map"
        if not 0 <= row < self.rows:
            return f"its camera {camid} has row {row}, but the camera embedding has {counted(self.rows, 'row')}, from 0"
        return row


@dataclass(frozen=True)
class HowExplained:
    """Which head's score of a model is explained, and which cameras its images have."""

    head: str | None
    cameras: CameraSource


def one_for_all(model: AnyModel) -> CameraSource:
    """The mean of all rows for every image; nothing for a model without camera embeddings."""
    return SameCamera("mean") if model.camera_rows else NO_CAMERAS


def camera_source(
    model: AnyModel, options: CameraOptions, shards: Sequence[Shard] = (), *, looks: bool = True
) -> CameraSource:
    """Where the cameras of a model's images come from. What is taken is logged.

    `looks` says whether this process looks into a shard for cameras that a map leaves out: of many that start at once
    one is enough.

    Raises UserError, before any work, where the user must say it, and where what is said fits neither model nor shards.
    """
    rows = model.camera_rows
    if not rows:
        if options.given:
            raise UserError(f"{options.given} was given, but the checkpoint has no camera embedding that is used")
        return NO_CAMERAS
    logger.info("camera embedding: %s, coefficient %s", counted(rows, "row"), model.config.camera_coefficient)
    if options.camera is not None:
        return SameCamera(_stated(options.camera, model))
    if options.camera_map is not None:
        mapping = _read_map(options.camera_map, rows)
        if looks:
            warn_of_unmapped(options.camera_map, mapping, shards)
        return OwnCameras(rows, mapping)
    if options.trained_on is None:
        raise UserError(
            f"the checkpoint has a camera embedding of {counted(rows, 'row')}, one for each camera of the data set "
            "that it was "
            "trained on: give --trained-on NAME if the images are of that data set, --camera-map FILE (a JSON object "
            f"of cameras to rows), or {_ways_for_all(model)}"
        )
    check_trained_on(options.trained_on, rows, shards, f"--camera-map FILE, or {_ways_for_all(model)}")
    return OwnCameras(rows)


def cameras_of_run(model: AnyModel, asked: RequestedSettings, resolved: ResolvedSettings) -> CameraSource:
    """Where the cameras came from when a run was mined. Raises UserError for a row that the model does not have."""
    rows = model.camera_rows
    if not rows:
        return NO_CAMERAS
    return OwnCameras(rows, resolved.camera_map) if asked.camera is None else SameCamera(_stated(asked.camera, model))


def _stated(text: str, model: AnyModel) -> int | Literal["mean", "none"]:
    if text in model.camera_fallbacks:
        if text == "mean":
            logger.info("camera embedding: every image gets the mean of all rows, an approximation: no image was "
                        "trained with it")  # fmt: skip
        return cast("Literal['mean', 'none']", text)
    rows = model.camera_rows
    if not text.isascii() or not text.isdigit() or int(text) >= rows:
        words = " or ".join(model.camera_fallbacks)
        raise UserError(f"--camera is {text!r}: for this model give a row from 0 to {rows - 1}, or {words}")
    return int(text)


def _ways_for_all(model: AnyModel) -> str:
    """The option that gives all images the same, as `--camera N, mean or none`."""
    *others, last = ("--camera N", *model.camera_fallbacks)
    return f"{', '.join(others)} or {last}"


def _read_map(path: Path, rows: int) -> dict[int, int]:
    """camid -> row. Raises UserError for a row that the embedding does not have."""
    found = read_camera_map(path)
    for camid, row in found.items():
        if row >= rows:
            raise UserError(
                f"the camera map {path} gives camera {camid} the row {row}, but the camera embedding has "
                f"{counted(rows, 'row')}, "
                "from 0"
            )
    return found
