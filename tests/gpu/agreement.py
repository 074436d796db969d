"""How close low precision comes to float32 on this device: correlation of each map, over many images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cam.extract import Extraction
from promptsg_core.model import AnyModel
from tests.gpu.parts import Kept
from tests.gpu.pictures import decoded, drawn_jpegs
from tests.gpu.setting import Setting
from tests.gpu.subjects import DEMO, KNOWN_PRECISIONS, Subject, measured_subject

_IMAGES, _BATCH = 256, 64


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Pearson's r of single maps with those in float32: their median, first percentile and least value."""

    median: float
    first_percentile: float
    least: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A model's results against those of the same model, computed otherwise.

    `same_class` is the share of images with the same predicted class; only these are compared. `finite`: all maps are.
    `features_error` is the largest difference of the features, as a share of their largest value.
    """

    images: int
    same_class: float
    finite: bool
    features_error: float
    maps: dict[str, Correlation]


def measure(setting: Setting, kept: Kept) -> None:
    """Keeps an Agreement for the measured model and the trained one of the demo, in each precision."""
    device = torch.device(setting.device)
    models = {"demo, trained": Subject(state=dict), "random weights": measured_subject(setting)}
    checkpoints = {"demo, trained": DEMO, "random weights": setting.checkpoint}
    jpegs = drawn_jpegs(12 if setting.small else _IMAGES)
    found: list[dict[str, object]] = []
    for name, subject in models.items():
        exact = _extracted(subject, checkpoints[name], device, "fp32", jpegs)
        for precision in KNOWN_PRECISIONS:
            if precision != "fp32":
                other = _extracted(subject, checkpoints[name], device, precision, jpegs)
                found.append({"model": name, "precision": precision, **asdict(agreement_of(other, exact))})
                kept.put(found)
                print(found[-1])


def _extracted(
    subject: Subject, checkpoint: Path, device: torch.device, precision: str, jpegs: list[bytes]
) -> Extraction:
    model = subject.load(checkpoint, device, precision)
    return in_batches(subject, model, decoded(jpegs, model.config.image_size), _BATCH)


def in_batches(subject: Subject, model: AnyModel, images: Tensor, batch: int) -> Extraction:
    """All maps of uint8 (N, 3, H, W) on the host, on the host, taken in batches."""
    starts = range(0, len(images), batch)
    parts = [on_host(subject.extract(model, images[start : start + batch])) for start in starts]
    return replace(
        parts[0],
        maps={name: torch.cat([part.maps[name] for part in parts]) for name in parts[0].maps},
        score=torch.cat([part.score for part in parts]),
        predicted=torch.cat([part.predicted for part in parts]),
        probability=torch.cat([part.probability for part in parts]),
        features=torch.cat([part.features for part in parts]),
        attention_heads=torch.cat([part.attention_heads for part in parts]),
    )


def on_host(found: Extraction) -> Extraction:
    """The same results on the host."""
    return replace(
        found,
        maps={name: maps.cpu() for name, maps in found.maps.items()},
        score=found.score.cpu(),
        predicted=found.predicted.cpu(),
        probability=found.probability.cpu(),
        features=found.features.cpu(),
        attention_heads=found.attention_heads.cpu(),
    )


def agreement_of(found: Extraction, exact: Extraction) -> Agreement:
    """Both on the host, of the same images."""
    same = found.predicted == exact.predicted
    return Agreement(
        images=len(same),
        same_class=float(same.double().mean()),
        finite=all(bool(torch.isfinite(maps).all()) for maps in found.maps.values()),
        features_error=error_of(found.features, exact.features),
        maps={name: spread_of(correlation(found.maps[name][same], exact.maps[name][same])) for name in exact.maps},
    )


def correlation(maps: Tensor, others: Tensor) -> Tensor:
    """(B, h, w) and (B, h, w) -> (B,) float64: Pearson's r of each map with its other; NaN where one is constant."""
    one, other = (each.flatten(1).double() for each in (maps, others))
    one, other = (each - each.mean(dim=1, keepdim=True) for each in (one, other))
    r: Tensor = (one * other).sum(dim=1) / (one.norm(dim=1) * other.norm(dim=1))
    return r


def spread_of(values: Tensor) -> Correlation:
    """Those of (B,) values that are finite; NaN where none is."""
    finite = values[torch.isfinite(values)].numpy()
    if not len(finite):
        return Correlation(median=float("nan"), first_percentile=float("nan"), least=float("nan"))
    median, first, least = (round(float(value), 6) for value in np.percentile(finite, (50, 1, 0)))
    return Correlation(median=median, first_percentile=first, least=least)


def error_of(found: Tensor, exact: Tensor) -> float:
    """The largest difference, as a share of the largest value of `exact`."""
    return float((found.double() - exact.double()).abs().max() / exact.double().abs().max().clamp_min(1e-30))
