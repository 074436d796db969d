"""Deletion and insertion: how a score falls as patches go, or rises as they come back, in the order of a map.

The causal metrics of Petsiuk et al. 2018 (RISE, arXiv:1806.07421), with the patches of the model in place of pixels: a
map that is faithful names the patches that the score rests on, so its deletion curve falls early (small area) and its
insertion curve rises early (large area). A removed patch shows a fill, an image of the same size.

Legend: B images, O orders, M patches, F fills, K steps, S scores, h w grid, n images in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cam.errors import CamError
from cam.extract import TappedModel

KINDS = ("deletion", "insertion")
_TRUNCATE = 4.0  # standard deviations at which the Gaussian ends; beyond lies 0.006 % of it
# (n, 3, H, W) uint8 images, and the (n,) numbers of the images that they were made of -> (n, S) scores.
Score = Callable[[Tensor, Tensor], Tensor]


def class_score(model: TappedModel, classes: Tensor) -> Score:
    """S = 2: the softmax probability and the logit of each image's class (B,) int64.

    Raises CamError for a class that the head lacks, when the score is called.
    """

    def score(images: Tensor, numbers: Tensor) -> Tensor:
        logits = model.head(model.encode(images)).logits.float()
        if int(classes.max()) >= logits.shape[1]:
            raise CamError(f"class {int(classes.max())} is asked for; the head has {logits.shape[1]}")
        index = classes.to(logits.device)[numbers.to(logits.device)].unsqueeze(1)
        return torch.cat([logits.softmax(dim=1).gather(1, index), logits.gather(1, index)], dim=1)

    return score


def cosine_score(model: TappedModel, references: Tensor) -> Score:
    """S = 1: the cosine of the feature to each image's reference (B, D)."""
    unit = F.normalize(references.float(), dim=1)

    def score(images: Tensor, numbers: Tensor) -> Tensor:
        features = F.normalize(model.head(model.encode(images)).features.float(), dim=1)
        wanted = unit.to(features.device)[numbers.to(features.device)]
        return (features * wanted).sum(dim=1, keepdim=True)

    return score


def patch_of_pixel(image_size: tuple[int, int], patch_size: int, stride: int, grid: tuple[int, int]) -> Tensor:
    """(H, W) int64: the patch, counted along the rows of the grid, whose centre is nearest to each pixel's.

    Every pixel belongs to one patch, also where patches overlap, so that removing all of them leaves nothing.
    """
    down, across = (
        # Half-way between two centres, the later one; the rim belongs to the last patch.
        ((torch.arange(length) + 0.5 - patch_size / 2) / stride + 0.5).floor().long().clamp(0, cells - 1)
        for length, cells in zip(image_size, grid, strict=True)
    )
    return down.unsqueeze(1) * grid[1] + across


def mean_colour(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> the same shape, each image all in its own mean colour, rounded."""
    mean = images.double().mean(dim=(2, 3), keepdim=True)  # float32 would round a large image's sum
    return mean.round().to(torch.uint8).expand_as(images)


def blur(images: Tensor, sigma: float) -> Tensor:
    """(B, 3, H, W) uint8 -> the same shape, under a Gaussian of `sigma` pixels; beyond the rim, the rim goes on."""
    radius = math.ceil(_TRUNCATE * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    taps = (taps / taps.sum()).to(images.device, torch.float32)
    flat = images.flatten(0, 1).unsqueeze(1).float()
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), taps.view(1, 1, -1, 1))
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), taps.view(1, 1, 1, -1))
    return flat.round().clamp(0, 255).to(torch.uint8).view_as(images)


def descending_order(maps: Tensor) -> Tensor:
    """(B, h, w) -> (B, M) int64: the patches from the map's highest to its lowest, equal ones along the grid's rows."""
    return maps.flatten(1).argsort(dim=1, descending=True, stable=True)


def removal_counts(patches: int, steps: int) -> Tensor:
    """(K+1,) int64: how many patches are gone after each step, from 0 to all, as even as whole patches allow.

    Raises CamError for more steps than patches.
    """
    if not 1 <= steps <= patches:
        raise CamError(f"{steps} steps over {patches} patches: take from 1 to {patches}")
    return (2 * patches * torch.arange(steps + 1) + steps) // (2 * steps)


def curves(
    images: Tensor,
    fills: Sequence[Tensor],
    orders: Tensor,
    patches: Tensor,
    counts: Tensor,
    score: Score,
    *,
    batch_size: int = 256,
) -> Tensor:
    """(B, 3, H, W) uint8 images and fills, (B, O, M) orders -> (F, 2, B, O, K+1, S) float32 on the CPU.

    `patches` (H, W) says which patch a pixel belongs to. Deletion, the first kind, removes the first `counts[k]`
    patches of an order from the image; insertion puts them back into the fill. Both ends are the image and the fill
    themselves, which are scored once for all orders; all else comes `batch_size` images to a pass.
    """
    count, device = len(images), images.device
    filled = torch.stack(list(fills))
    ranks = orders.to(device).argsort(dim=2)  # of a permutation: its inverse
    patches, inner = patches.to(device), counts[1:-1].to(device)
    shape = (count, orders.shape[1], len(fills), len(KINDS), len(inner))

    def changed(flat: Tensor) -> tuple[Tensor, Tensor]:
        b, o, f, kind, k = torch.unravel_index(flat, shape)
        early = ranks[b, o] < inner[k].unsqueeze(1)
        removed = early ^ kind.bool().unsqueeze(1)
        return torch.where(removed[:, patches].unsqueeze(1), filled[f, b], images[b]), b

    def end(flat: Tensor) -> tuple[Tensor, Tensor]:
        which, b = torch.unravel_index(flat, (1 + len(fills), count))
        whole = (which == 0).view(-1, 1, 1, 1)
        return torch.where(whole, images[b], filled[(which - 1).clamp(min=0), b]), b

    whole, *bare = _scored(end, (1 + len(fills)) * count, score, batch_size, device).unflatten(0, (-1, count))
    found = torch.empty(len(fills), len(KINDS), count, orders.shape[1], len(counts), whole.shape[1])
    if math.prod(shape):
        between = _scored(changed, math.prod(shape), score, batch_size, device).unflatten(0, shape)
        found[..., 1:-1, :] = between.permute(2, 3, 0, 1, 4, 5)
    found[:, 0, :, :, 0] = found[:, 1, :, :, -1] = whole.unsqueeze(1)
    found[:, 0, :, :, -1] = found[:, 1, :, :, 0] = torch.stack(bare).unsqueeze(2)
    return found


def passes(orders: int, fills: int, steps: int) -> int:
    """How many images `curves` puts through the model for each image that it is given."""
    return 1 + fills * (1 + len(KINDS) * orders * (steps - 1))


def _scored(
    make: Callable[[Tensor], tuple[Tensor, Tensor]], total: int, score: Score, batch_size: int, device: torch.device
) -> Tensor:
    """(total, S) float32 on the CPU: the scores of images that are made a batch at a time."""
    found = []
    for start in range(0, total, batch_size):
        found.append(score(*make(torch.arange(start, min(start + batch_size, total), device=device))).float())
    return torch.cat(found).cpu()


def area(values: Tensor, counts: Tensor) -> Tensor:
    """(..., K+1) scores -> (...) area under them by the trapezoidal rule, over the share of patches from 0 to 1."""
    return torch.trapezoid(values.double(), counts / counts[-1], dim=-1)
