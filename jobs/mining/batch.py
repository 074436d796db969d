"""One batch through the model: one pass, all maps, and the results on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cam.extract import Extraction, extract_maps
from cam.names import MapName
from jobs.mining.camera_rows.source import NO_CAMERAS, CameraSource
from jobs.mining.config import MineConfig
from jobs.mining.targets import BatchTarget, TargetSource
from jobs.runs.maps_file import HEADS
from jobs.runs.metadata_rows import Results
from jobs.shards.reader import Batch
from jobs.shards.samples import NO_CAMERA, NO_CAPTION, OK, Sample
from promptsg_core.model import AnyModel


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
    good = [sample for sample in batch.samples if sample.status == OK]
    batch_target, own = targets.of(good), cameras.of([sample.camid for sample in good])
    needed = model.needs_captions(config.target, config.maps) is not None
    captions = [sample.caption for sample in good] if model.reads_captions(config.target, config.maps) else None
    if captions is not None and not needed and not any(captions):
        captions = None
    extraction = extract_maps(
        model,
        batch.images,
        maps=config.maps,
        target=batch_target.target,
        gradcam_plus_plus=config.gradcam_plus_plus,
        head=config.head,
        cameras=own.cameras,
        captions=captions,
    )
    results = to_host(extraction, heads=config.attention_heads == "all")
    if batch_target.known is not None:
        _blank(np.flatnonzero(~batch_target.known).tolist(), good, results, batch_target)
    failures = [None if error is None else (NO_CAMERA, error) for error in own.errors or [None] * len(good)]
    for row, caption in enumerate(captions or ()):
        if needed and not caption and failures[row] is None:
            failures[row] = NO_CAPTION, "its sample has no caption: a text `caption` in its JSON"
    return _without_failed(good, results, failures) if any(failures) else results


def _without_failed(samples: Sequence[Sample], results: Results, failures: Sequence[tuple[str, str] | None]) -> Results:
    """The rows of the samples without a failure; the others are marked as failed."""
    for sample, failure in zip(samples, failures, strict=True):
        if failure is not None:
            sample.status, sample.error = failure
    return results.rows(np.array([failure is None for failure in failures]))


def _blank(rows: Sequence[int], samples: Sequence[Sample], results: Results, batch_target: BatchTarget) -> None:
    """Removes the score and the maps of the target from rows that have no target, and marks their samples."""
    for row in rows:
        samples[row].status, samples[row].error = batch_target.status, batch_target.error
        results.score[row] = np.nan
        for name, maps in results.maps.items():
            if MapName.parse(name).needs_target:
                maps[row] = np.nan


@torch.no_grad()
def to_host(extraction: Extraction, *, heads: bool = False) -> Results:
    """Device tensors to numpy arrays. With `heads` each head of the model's own attention is stored too."""
    return Results(
        stored={HEADS: extraction.attention_heads.contiguous().cpu().numpy()} if heads else {},
        maps={name: maps.contiguous().cpu().numpy() for name, maps in extraction.maps.items()},
        features=extraction.features.cpu().numpy(),
        score=extraction.score.cpu().numpy(),
        predicted=extraction.predicted.cpu().numpy(),
        probability=extraction.probability.cpu().numpy(),
    )
