"""What a model says of single sampled images: class, probability and feature.

Legend: n images, D feature length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cam.extract import evaluating
from cam.targets import predicted_class
from jobs.arrays import Float32Array
from jobs.mining.camera_rows.source import NO_CAMERAS, CameraSource
from jobs.mining.label_agreement import Prediction
from jobs.progress import told
from jobs.shards.decoding import DecodedSize, Decoding, decode_batch
from jobs.shards.person_sample import SampledImage
from jobs.shards.samples import Sample
from promptsg_core.images import DEFAULT_MAX_PIXELS
from promptsg_core.model import AnyModel

_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Of n images: `samples`, classes (n,) with their probabilities (n,), and features (n, D).

    `undecoded` counts the images that did not decode; they are not among the n.
    """

    samples: tuple[Sample, ...]
    classes: tuple[int, ...]
    probabilities: tuple[float, ...]
    features: Float32Array
    undecoded: int

    def of_persons(self) -> list[Prediction]:
        """Without the features, for the images that have a pid."""
        rows = zip(self.samples, self.classes, self.probabilities, strict=True)
        return [
            Prediction(pid=sample.pid, predicted=label, probability=probability)
            for sample, label, probability in rows
            if sample.pid is not None
        ]


@told("predicting the classes of a sample")
def predict(
    model: AnyModel,
    images: Sequence[SampledImage],
    cameras: CameraSource = NO_CAMERAS,
    *,
    interpolation: str = "bilinear",
    max_image_pixels: int = DEFAULT_MAX_PIXELS,
) -> Predictions:
    """Runs the model over images, as mining does but without maps. Images without a camera count as not decoded."""
    how = Decoding(image_size=model.config.image_size, interpolation=interpolation, max_image_pixels=max_image_pixels)
    samples: list[Sample] = []
    classes: list[int] = []
    probabilities: list[float] = []
    features = [np.zeros((0, model.config.feature_dim), np.float32)]
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        batch = decode_batch([image.data for image in part], how)
        decoded = [
            image.sample
            for image, outcome in zip(part, batch.outcomes, strict=True)
            if isinstance(outcome, DecodedSize)
        ]
        own = cameras.of([sample.camid for sample in decoded])
        known = torch.tensor([error is None for error in own.errors or [None] * len(decoded)], dtype=torch.bool)
        samples += [sample for sample, is_known in zip(decoded, known.tolist(), strict=True) if is_known]
        if not known.any():
            continue
        chosen = own.cameras[known] if isinstance(own.cameras, torch.Tensor) else own.cameras
        with torch.inference_mode(False), torch.no_grad(), evaluating(model):
            out = model.head(model.encode(batch.images[known], chosen), native=())
            predicted, probability = predicted_class(out.logits)
        classes += predicted.tolist()
        probabilities += probability.tolist()
        features.append(out.features.float().cpu().numpy())
    return Predictions(
        samples=tuple(samples),
        classes=tuple(classes),
        probabilities=tuple(probabilities),
        features=np.concatenate(features),
        undecoded=len(images) - len(samples),
    )
