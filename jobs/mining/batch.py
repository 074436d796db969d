"""One batch through the model: one pass, all maps, and the results on the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cam.extract import Extraction, extract_maps
from cam.names import MapName
from jobs.mining.config import MineConfig
from jobs.mining.targets import BatchTarget, TargetSource
from jobs.runs.maps_file import HEADS
from jobs.runs.metadata_rows import Results
from jobs.shards.reader import Batch
from jobs.shards.samples import OK, Sample
from promptsg_core.model import PromptSG


def mine_batch(model: PromptSG, batch: Batch, config: MineConfig, targets: TargetSource) -> Results:
    """One pass over a batch's uint8 images (B, 3, H, W). The results are on the host.

    The status of a sample that has no target says so afterwards.
    """
    good = [sample for sample in batch.samples if sample.status == OK]
    batch_target = targets.of(good)
    extraction = extract_maps(
        model, batch.images, maps=config.maps, target=batch_target.target, gradcam_plus_plus=config.gradcam_plus_plus
    )
    results = to_host(extraction, heads=config.attention_heads == "all")
    if batch_target.known is not None:
        _blank(np.flatnonzero(~batch_target.known).tolist(), good, results, batch_target)
    return results


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
    """Device tensors to numpy arrays. With `heads` the attention of each of the MIM's heads is stored too."""
    return Results(
        stored={HEADS: extraction.attention_heads.contiguous().cpu().numpy()} if heads else {},
        maps={name: maps.contiguous().cpu().numpy() for name, maps in extraction.maps.items()},
        features=extraction.features.cpu().numpy(),
        score=extraction.score.cpu().numpy(),
        predicted=extraction.predicted.cpu().numpy(),
        probability=extraction.probability.cpu().numpy(),
    )
