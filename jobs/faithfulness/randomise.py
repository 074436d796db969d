"""The sanity check of Adebayo et al. 2018 (arXiv:1810.03292): what remains of a map once weights are random again.

A map that looks the same for a model that never learned shows the image or the architecture, not what was learned.
Weights are re-initialised in cascade from the output down: first the head, then the head and the image tower. What is
not on the path from the patches to the scores keeps its weights: the model says what that is.

Legend: B images, n images of one batch, h w grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cam.extract import extract_maps
from cam.targets import Target
from jobs.arrays import Float32Array, Float64Array
from jobs.faithfulness.measured import MapCorrelation
from jobs.progress import told
from jobs.statistics.agreement import agreement_of
from promptsg_core.cameras import Cameras
from promptsg_core.model import AnyModel
from promptsg_core.prompts import Captions

NOTHING = "nothing"  # is random: the control, the stored map against the map of the same model here
MEASURES = ("pearson", "spearman")


@dataclass(frozen=True)
class TargetedImages:
    """(n, 3, H, W) images, their target, cameras and captions, and the head that is explained.

    The target is a fixed score, such as the logit of the class that the trained model predicted, so that the maps of
    two models differ by the weights alone.
    """

    images: Tensor
    target: Target
    cameras: Cameras | None = None
    head: str | None = None
    captions: Captions | None = None


def reinitialised(model: AnyModel, prefixes: Sequence[str], seed: int = 0) -> AnyModel:
    """A copy of the model whose parameters and statistics with these prefixes are as before any training.

    The new weights depend on `seed` alone: of two copies with the same seed, the one with more random weights has the
    random weights of the other too. The model itself and torch's generators are left as they were.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        fresh: AnyModel = type(model)(model.config)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith(tuple(prefixes))}
    fresh.load_state_dict(kept, strict=False)
    fresh.add_prompts(model.prompts)
    fresh.requires_grad_(False).eval()
    fresh.made_ready()
    return fresh.convert(model.dtype).to(model.device)


def cascade(model: AnyModel, seed: int = 0) -> Iterator[tuple[str, AnyModel]]:
    """(what is random, such a model): the model itself, then with a random head, then with a random tower too."""
    yield NOTHING, model
    for level, prefixes in model.random_levels.items():
        yield level, reinitialised(model, prefixes, seed)


@told("comparing with models of random weights")
def correlations(
    model: AnyModel,
    batches: Sequence[TargetedImages],
    stored: Mapping[str, Float32Array],
    *,
    gradcam_plus_plus: str = "rectified",
    seed: int = 0,
) -> tuple[MapCorrelation, ...]:
    """Batches of B images in all, map -> (B, h, w) stored maps -> a correlation for each level and each map.

    Values are NaN where either map is constant.
    """
    found = []
    for level, changed in cascade(model, seed):
        results = [
            extract_maps(
                changed,
                batch.images,
                tuple(stored),
                batch.target,
                gradcam_plus_plus,
                head=batch.head,
                cameras=batch.cameras,
                captions=batch.captions,
            ).maps
            for batch in batches
        ]
        for name, before in stored.items():
            after = np.concatenate([maps[name].cpu().numpy() for maps in results])
            values = agreement_of(_flat(before), _flat(after))[:, : len(MEASURES)]
            found.append(MapCorrelation(random=level, map=name, values=values))
    return tuple(found)


def _flat(maps: Float32Array) -> Float64Array:
    return maps.reshape(len(maps), -1).astype(np.float64)
