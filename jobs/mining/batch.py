"""One batch through the model: launched on the device in one pass with all maps, and later taken as arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cam.extract import Extraction
from cam.names import MapName
from cam.targets import Target, data_of, with_data
from jobs.arrays import Float32Array
from jobs.mining.camera_rows.source import NO_CAMERAS, BatchCameras, CameraSource
from jobs.mining.config import MineConfig
from jobs.mining.devices.choose import device_of
from jobs.mining.devices.device import Device, Download, Numbers, Uploaded
from jobs.mining.devices.device_measures import DeviceMeasures
from jobs.mining.passes.plain import Pass, plain_pass
from jobs.mining.targets import BatchTarget, TargetSource
from jobs.runs.maps_file import HEADS
from jobs.runs.metadata_rows import Results
from jobs.shards.columns import SampleColumns
from jobs.shards.reader import Batch
from jobs.shards.samples import NO_CAMERA, NO_CAPTION, OK
from promptsg_core.cameras import Cameras
from promptsg_core.model import AnyModel

_Failure = tuple[str, str]
# Names beside those of the maps on the way to the host; no map has a name with a space.
_PREDICTED, _SCORE, _PROBABILITY, _FEATURES = "its class", "its score", "its probability", "its features"
_HEADS, _MEASURES = "its heads", "its measures"


@dataclass(frozen=True, kw_only=True)
class MiningSetup:
    """What a batch is mined with. `run` is the pass of the model.

    `measures`, of the maps `measured` in this order, are taken on the device; None leaves them to the writer.
    """

    model: AnyModel
    run: Pass
    config: MineConfig
    targets: TargetSource
    cameras: CameraSource
    device: Device
    measures: DeviceMeasures | None = None
    measured: tuple[str, ...] = ()


@dataclass(frozen=True)
class LaunchedBatch:
    """A batch that the device works on. `good` are the samples in the `rows` of the batch that have an image.

    `uploaded` has the images on the device, `failures` says why an image's results do not count.
    """

    batch: Batch
    rows: list[int]
    good: SampleColumns
    target: BatchTarget
    failures: Sequence[_Failure | None]
    uploaded: Uploaded
    download: Download
    setup: MiningSetup

    def results(self) -> Results:
        """Waits for the results. To be called once.

        Rows that have no target are without its maps, and rows that do not count are left out. The batch's samples say
        so afterwards.
        """
        results = _results_of(self.download.take(), self.setup.config.maps)
        if self.target.known is not None:
            _blank(np.flatnonzero(~self.target.known).tolist(), self.good, results, self.target, self.setup.measured)
        if any(self.failures):
            results = _without_failed(self.good, results, self.failures)
        self.batch.samples.mark_as(self.rows, self.good)
        return results


def mine_batch(
    model: AnyModel,
    batch: Batch,
    config: MineConfig,
    targets: TargetSource,
    cameras: CameraSource = NO_CAMERAS,
) -> Results:
    """One pass over a batch's uint8 images (B, 3, H, W). The results are on the host.

    The status of a sample that has no target says so afterwards. A sample without a camera that the model knows has
    failed, and has no row in the results.
    """
    device = device_of(model.device)
    with contextlib.closing(device):
        run = plain_pass(model, config)
        setup = MiningSetup(model=model, run=run, config=config, targets=targets, cameras=cameras, device=device)
        return launch_batch(batch, setup).results()


def launch_batch(batch: Batch, setup: MiningSetup) -> LaunchedBatch:
    """Starts the pass over a batch's uint8 images (B, 3, H, W), and the copies before and after it.

    The images must stay as they are until `uploaded.copied`.
    """
    model, config = setup.model, setup.config
    rows = batch.samples.rows_with({OK})
    good = batch.samples.select(rows)
    target, own = setup.targets.of(good), setup.cameras.of(good.camid)
    needed = model.needs_captions(config.target, config.maps) is not None
    captions = _captions_of(good, setup)
    failures = _failures_of(good, own, captions, needed=needed)
    uploaded = setup.device.upload(batch.images, _constants_of(target.target, own.cameras))
    try:
        there, cameras = _on_device(target.target, own.cameras, uploaded.constants)
        extraction = setup.run(uploaded.images, there, cameras, captions)
        download = setup.device.download(_numbers_of(extraction, setup))
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the first error counts
            uploaded.copied.wait()
        raise
    return LaunchedBatch(batch, rows, good, target, failures, uploaded, download, setup)


def _constants_of(target: Target, cameras: Cameras | None) -> list[Tensor]:
    """What is uploaded beside the images: the classes or references of the target, and the rows of the cameras."""
    return [constant for constant in (data_of(target), cameras) if isinstance(constant, Tensor)]


def _on_device(target: Target, cameras: Cameras | None, constants: Sequence[Tensor]) -> tuple[Target, Cameras | None]:
    """The target and the cameras with their constants where these are now. They were checked on the host."""
    there = iter(constants)
    if data_of(target) is not None:
        target = with_data(target, next(there))
    return target, next(there) if isinstance(cameras, Tensor) else cameras


def _captions_of(good: SampleColumns, setup: MiningSetup) -> list[str | None] | None:
    """The captions of the images, where the request reads them; None where nothing is to be read."""
    model, config = setup.model, setup.config
    if not model.reads_captions(config.target, config.maps):
        return None
    needed = model.needs_captions(config.target, config.maps) is not None
    return good.caption if needed or any(good.caption) else None


def _failures_of(
    good: SampleColumns, cameras: BatchCameras, captions: list[str | None] | None, *, needed: bool
) -> list[_Failure | None]:
    """Why the results of an image do not count: no camera with a row, or no caption where it is `needed`."""
    failures: list[_Failure | None] = [None] * len(good)
    for row, error in enumerate(cameras.errors):
        if error is not None:
            failures[row] = NO_CAMERA, error
    for row, caption in enumerate(captions or () if needed else ()):
        if not caption and failures[row] is None:
            failures[row] = NO_CAPTION, "its sample has no caption: a text `caption` in its JSON"
    return failures


@torch.no_grad()
def _numbers_of(extraction: Extraction, setup: MiningSetup) -> dict[str, Tensor]:
    """What is brought to the host, by name: maps by their own."""
    numbers = {
        _PREDICTED: extraction.predicted,
        _SCORE: extraction.score,
        _PROBABILITY: extraction.probability,
        _FEATURES: extraction.features,
        **extraction.maps,
    }
    if setup.config.attention_heads == "all":
        numbers[_HEADS] = extraction.attention_heads
    if setup.measures is not None:
        numbers[_MEASURES] = setup.measures(torch.stack([extraction.maps[name] for name in setup.measured]))
    return numbers


def _results_of(numbers: Mapping[str, Numbers], maps: Sequence[str]) -> Results:
    """The results of arrays by name. Those that are kept until the shard's end are copied: they are a few numbers of a
    large array.
    """
    measures = numbers.get(_MEASURES)
    return Results(
        maps={name: _float32(numbers[name]) for name in maps},
        features=_float32(numbers[_FEATURES]),
        score=_float32(numbers[_SCORE]).copy(),
        predicted=numbers[_PREDICTED].astype(np.int64),
        probability=_float32(numbers[_PROBABILITY]).copy(),
        stored={HEADS: _float32(numbers[_HEADS])} if _HEADS in numbers else {},
        measures=None if measures is None else _float32(measures).copy(),
    )


def _float32(values: Numbers) -> Float32Array:
    return values.astype(np.float32, copy=False)


def _without_failed(samples: SampleColumns, results: Results, failures: Sequence[_Failure | None]) -> Results:
    """The rows of the samples without a failure; the others are marked as failed."""
    for row, failure in enumerate(failures):
        if failure is not None:
            samples.mark(row, *failure)
    return results.rows(np.array([failure is None for failure in failures]))


def _blank(
    rows: Sequence[int], samples: SampleColumns, results: Results, batch_target: BatchTarget, measured: Sequence[str]
) -> None:
    """Removes score, maps and measures of the target from rows that have no target, and marks their samples."""
    of_target = [name for name in results.maps if MapName.parse(name).needs_target]
    for row in rows:
        samples.mark(row, batch_target.status, batch_target.error)
    results.score[rows] = np.nan
    for name in of_target:
        results.maps[name][rows] = np.nan
        if results.measures is not None:
            results.measures[measured.index(name)][:, rows] = np.nan
