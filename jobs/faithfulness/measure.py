"""Does the score that a map explains depend on the patches that the map names?

Deletion and insertion curves of stored maps against random orders on the same images, and the sanity check with
re-initialised weights.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cam.faithfulness import passes
from jobs.arrays import Float32Array, Int64Array
from jobs.faithfulness.early import maps_to_measure
from jobs.faithfulness.images import CHUNK, read_images, select_images, with_captions
from jobs.faithfulness.measured import Measured
from jobs.faithfulness.plan import FILLS, RANDOM, FaithfulnessConfig
from jobs.faithfulness.randomise import TargetedImages, correlations
from jobs.faithfulness.removal import Removal
from jobs.faithfulness.report import write_report
from jobs.faithfulness.score import (
    ExplainedScore,
    cameras_of_rows,
    captions_of_rows,
    check_checkpoint,
    explained_score,
    load_mined_model,
)
from jobs.faithfulness.summary import FaithfulnessSummary, summarise
from jobs.phrases import counted
from jobs.progress import LongTask
from jobs.runs.query import warn_of_unfinished
from jobs.runs.run import Run, open_run
from promptsg_core.model import AnyModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FaithfulnessResult:
    """What was measured: image by image, in figures, and the folder with both as files."""

    measured: Measured
    summary: FaithfulnessSummary
    folder: Path


def measure_faithfulness(config: FaithfulnessConfig) -> FaithfulnessResult:
    """Measures how faithful a run's maps are to the score that they explain, and writes the report.

    Raises UserError for another checkpoint than the run's, an unknown map, a selection without images, and shards that
    are missing or have changed. Raises CamError for more steps than patches.
    """
    run = open_run(config.run, evaluation=config.evaluation)
    warn_of_unfinished(run)
    config = replace(config, maps=maps_to_measure(run, config))
    measured = measure(run, config)
    summary = summarise(run, config, measured)
    folder = config.output or config.run / "faithfulness"
    write_report(folder, config, measured, summary)
    return FaithfulnessResult(measured=measured, summary=summary, folder=folder)


def measure(run: Run, config: FaithfulnessConfig) -> Measured:
    """Curves and correlations of the selected images; `config.maps` names the maps. Raises as above."""
    digest = check_checkpoint(run, config)
    rows = select_images(run, config.selection)
    model, precision = load_mined_model(run, config)
    if model.reads_captions(run.manifest.asked.target, config.maps if config.sanity else ()):
        rows = with_captions(run, rows, config)
    explained = explained_score(run, config, model)
    removal = Removal.of(config, model, explained)
    each = passes(len(config.maps) + config.random, len(FILLS), config.steps)
    passed = f"{counted(rows.num_rows, 'image')}, {counted(each, 'pass', 'passes')} each"
    logger.info("%s through the model in %s", passed, precision)
    checked = evenly_spaced(rows.num_rows, config.sanity_images if config.sanity else 0)
    curves, checked_images = _follow(run, config, rows, model, removal, checked)
    stored = {name: run.maps_of(name, rows) for name in config.maps}
    batches = _batches(checked_images, rows.take(pa.array(checked)), explained)
    form = run.manifest.asked.gradcam_plus_plus
    some = {name: maps[checked] for name, maps in stored.items()}
    return Measured(
        rows=rows,
        orders=(*config.maps, RANDOM),
        curves=curves,
        counts=removal.counts.numpy(),
        correlations=correlations(model, batches, some, gradcam_plus_plus=form, seed=config.seed) if batches else (),
        checked=checked,
        zero_maps={name: int((~maps.any(axis=(1, 2))).sum()) for name, maps in stored.items()},
        scores=explained.scores,
        title=explained.title,
        sigma=removal.sigma,
        precision=precision,
        checkpoint_sha256=digest,
    )


def evenly_spaced(total: int, count: int) -> Int64Array:
    """Rising numbers below `total`, `count` of them or all. Neighbouring rows are often of one identity."""
    return np.unique(np.arange(count, dtype=np.int64) * total // max(1, count))


def _follow(
    run: Run, config: FaithfulnessConfig, rows: pa.Table, model: AnyModel, removal: Removal, checked: Int64Array
) -> tuple[Float32Array, Tensor]:
    """The curves of all images, and the pixels of those that are checked, (n, 3, H, W) on the CPU."""
    curves, kept = [], []
    with LongTask("removing patches", rows.num_rows, "image") as task:
        for start, images in read_images(run, rows, model, config):
            some = rows.slice(start, len(images))
            curves.append(removal.curves_of(images, some, [run.maps_of(name, some) for name in config.maps]))
            here = checked[(checked >= start) & (checked < start + len(images))] - start
            kept.append(images[here.tolist()].cpu())
            task.advance(len(images))
    return np.concatenate(curves), torch.cat(kept)


def _batches(images: Tensor, rows: pa.Table, explained: ExplainedScore) -> list[TargetedImages]:
    """The checked images, a few at a time, with the target of each."""
    parts = [(images[start : start + CHUNK], rows.slice(start, CHUNK)) for start in range(0, len(images), CHUNK)]
    how = explained.how
    return [
        TargetedImages(some, explained.target(of, some), cameras_of_rows(how, of), how.head, captions_of_rows(of))
        for some, of in parts
    ]
