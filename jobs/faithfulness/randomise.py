"""The sanity check of Adebayo et al. 2018 (arXiv:1810.03292): what remains of a map once weights are random again.

A map that looks the same for a model that never learned shows the image or the architecture, not what was learned.
Weights are re-initialised in cascade from the output down: first the head, then the head and the image tower. The
text tower and the inversion network, which lie off the path from patches to scores, keep theirs.

Legend: B images, h w grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cam.extract import extract_maps
from cam.targets import Target
from jobs.statistics.agreement import agreement_of
from promptsg_core.model import PromptSG

HEAD = ("mim.", "bottleneck.", "bottleneck_proj.", "classifier.", "classifier_proj.")
TOWER = ("image_encoder.",)
# What is random, by name. `nothing` is the control: the correlation of the stored map with the same model's map here.
LEVELS: Mapping[str, tuple[str, ...]] = {"nothing": (), "head": HEAD, "head and tower": (*HEAD, *TOWER)}
MEASURES = ("pearson", "spearman")
Doubles = NDArray[np.float64]


def reinitialised(model: PromptSG, prefixes: Sequence[str], seed: int = 0) -> PromptSG:
    """A copy of the model whose parameters and statistics below these names are as before any training.

    The fresh weights come from `seed` alone: of two copies with the same seed, the one with more of them random has
    the random weights of the other too. The model itself, and torch's generators, are left as they were.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        fresh = PromptSG(model.config)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith(tuple(prefixes))}
    fresh.load_state_dict(kept, strict=False)
    fresh.prompts.update(model.prompts)
    fresh.requires_grad_(False).eval()
    return fresh.convert(model.dtype).to(model.image_encoder.proj.device)


def cascade(model: PromptSG, seed: int = 0) -> Iterator[tuple[str, PromptSG]]:
    """(what is random, a model with that): the model itself, then its head, then its tower too."""
    for level, prefixes in LEVELS.items():
        yield level, reinitialised(model, prefixes, seed) if prefixes else model


def correlations(
    model: PromptSG,
    images: Tensor,
    stored: Mapping[str, NDArray[np.float32]],
    target: Callable[[slice], Target],
    *,
    gradcam_plus_plus: str = "rectified",
    seed: int = 0,
    batch_size: int = 32,
) -> dict[str, dict[str, Doubles]]:
    """(B, 3, H, W) images, map -> (B, h, w) stored maps -> level -> map -> (B, 2) Pearson and Spearman correlation.

    `target` gives the target for a slice of the images: a score that is fixed, such as the logit of the class that the
    trained model predicted, so that only weights differ. NaN where either map is constant.
    """
    found: dict[str, dict[str, Doubles]] = {}
    for level, changed in cascade(model, seed):
        parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in stored}
        for start in range(0, len(images), batch_size):
            some = slice(start, start + batch_size)
            maps = extract_maps(changed, images[some], tuple(stored), target(some), gradcam_plus_plus).maps
            for name, values in maps.items():
                parts[name].append(values.cpu().numpy())
        found[level] = {
            name: agreement_of(_flat(stored[name]), _flat(np.concatenate(parts[name])))[:, : len(MEASURES)]
            for name in stored
        }
    return found


def _flat(maps: NDArray[np.float32]) -> Doubles:
    return maps.reshape(len(maps), -1).astype(np.float64)
