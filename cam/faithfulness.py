"""Deletion and insertion: how a score falls as patches are removed, or rises as they return, in the order of a map.

The causal metrics of Petsiuk et al. 2018 (RISE, arXiv:1806.07421), with the patches of the model in place of pixels. A
faithful map names the patches that the score rests on: its deletion curve falls early, so the area under it is small,
and its insertion curve rises early, so the area under it is large. A removed patch shows a fill, an image of the same
size.

This works for every model with taps and every map, whether a run exists or not, and is therefore part of cam.

Legend: B images, O orders, M patches, F fills, K steps, S scores, h w grid, n images in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cam.errors import CamError
from cam.protocol import CameraChoice, Captions, E, TappedModel
from cam.targets import text_target

KINDS = ("deletion", "insertion")
_TRUNCATE = 4.0  # standard deviations at which the Gaussian ends; 0.006 % of it lies beyond


class ImageScore(Protocol):
    """What is measured of images."""

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(n, 3, H, W) uint8 images, and the (n,) numbers of the images that they were made of -> (n, S) scores."""


@dataclass(frozen=True)
class ClassScore(Generic[E]):
    """S = 2: the softmax probability and the logit of each image's class, (B,) int64, by the head of that name.

    `cameras` are those of the B images. A call raises CamError for a class that the head does not have.
    """

    model: TappedModel[E]
    classes: Tensor
    head: str | None = None
    cameras: CameraChoice | None = None

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(n, 3, H, W), (n,) -> (n, 2)."""
        encoded = self.model.encode(images, _cameras_of(self.cameras, numbers))
        logits = self.model.head(encoded, head=self.head, native=()).scores.float()
        if int(self.classes.max()) >= logits.shape[1]:
            raise CamError(f"class {int(self.classes.max())} was requested; the head has {logits.shape[1]}")
        index = self.classes.to(logits.device)[numbers.to(logits.device)].unsqueeze(1)
        return torch.cat([logits.softmax(dim=1).gather(1, index), logits.gather(1, index)], dim=1)


@dataclass(frozen=True)
class CosineScore(Generic[E]):
    """S = 1: the cosine of the feature to each image's reference (B, D). `cameras` are those of the B images."""

    model: TappedModel[E]
    references: Tensor
    cameras: CameraChoice | None = None

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(n, 3, H, W), (n,) -> (n, 1)."""
        encoded = self.model.encode(images, _cameras_of(self.cameras, numbers))
        features = F.normalize(self.model.head(encoded, native=()).features.float(), dim=1)
        references = F.normalize(self.references.float(), dim=1).to(features.device)
        return (features * references[numbers.to(features.device)]).sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class TextScore(Generic[E]):
    """S = 1: the likeness of each image to its text. `cameras` and `captions` are those of the B images.

    `texts` (B,) are those that the whole images are most like, by `nearest_texts`: a masked image that chose anew would
    be scored by another text.
    """

    model: TappedModel[E]
    texts: Tensor
    cameras: CameraChoice | None = None
    captions: Captions | None = None

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """(n, 3, H, W), (n,) -> (n, 1). Raises CamError for a model without texts, and where the images have none."""
        own = {} if self.captions is None else {"captions": [self.captions[number] for number in numbers.tolist()]}
        found = self.model.head(self.model.encode(images, _cameras_of(self.cameras, numbers), **own), native=())
        return text_target(self.texts[numbers.to(self.texts.device)]).score(found).unsqueeze(1)


def _cameras_of(cameras: CameraChoice | None, numbers: Tensor) -> CameraChoice | None:
    """The cameras of the (n,) numbered images."""
    return cameras[numbers.to(cameras.device)] if isinstance(cameras, Tensor) and cameras.ndim else cameras


def patch_of_pixel(image_size: tuple[int, int], patch_size: int, stride: int, grid: tuple[int, int]) -> Tensor:
    """(H, W) int64: the patch, counted along the rows of the grid, whose centre is nearest to each pixel's.

    Every pixel belongs to one patch, also where patches overlap: with all patches removed nothing of the image is left.
    """
    down, across = (
        # Half-way between two centres the later one is taken. The rim belongs to the last patch.
        ((torch.arange(length) + 0.5 - patch_size / 2) / stride + 0.5).floor().long().clamp(0, cells - 1)
        for length, cells in zip(image_size, grid, strict=True)
    )
    return down.unsqueeze(1) * grid[1] + across


def mean_colour(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> the same shape, each image filled with its own mean colour, rounded."""
    mean = images.double().mean(dim=(2, 3), keepdim=True)  # float32 would round a large image's sum
    return mean.round().to(torch.uint8).expand_as(images)


def blur(images: Tensor, sigma: float) -> Tensor:
    """(B, 3, H, W) uint8 -> the same shape, blurred by a Gaussian of `sigma` pixels; the rim is continued outwards."""
    radius = math.ceil(_TRUNCATE * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    taps = (taps / taps.sum()).to(images.device, torch.float32)
    flat = images.flatten(0, 1).unsqueeze(1).float()
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), taps.view(1, 1, -1, 1))
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), taps.view(1, 1, 1, -1))
    return flat.round().clamp(0, 255).to(torch.uint8).view_as(images)


def descending_order(maps: Tensor) -> Tensor:
    """(B, h, w) -> (B, M) int64: the patches from the map's highest to its lowest; equal ones in the grid's order."""
    return maps.flatten(1).argsort(dim=1, descending=True, stable=True)


def removal_counts(patches: int, steps: int) -> Tensor:
    """(K+1,) int64: how many patches are removed after each step, from 0 to all, in steps as equal as possible.

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
    score: ImageScore,
    *,
    batch_size: int = 256,
) -> Tensor:
    """(B, 3, H, W) uint8 images and fills, (B, O, M) orders -> (F, 2, B, O, K+1, S) float32 on the CPU.

    `patches` (H, W) says which patch a pixel belongs to. Deletion, the first kind, removes the first `counts[k]`
    patches of an order from the image. Insertion puts them back into the fill. Both ends of a curve are the image and
    the fill themselves, which are scored once for all orders. All other images are scored `batch_size` at a time.
    """
    device, (count, order_count, _) = images.device, orders.shape
    filled = torch.stack(list(fills))
    ranks = orders.to(device).argsort(dim=2)  # of a permutation: its inverse
    ends = _Ends(torch.cat([images.unsqueeze(0), filled]))
    whole, *bare = torch.unflatten(_score_all(ends, score, batch_size, device), 0, ends.shape)
    found = torch.empty(len(fills), len(KINDS), count, order_count, len(counts), whole.shape[1])
    between = _Between(images, filled, ranks, patches.to(device), counts[1:-1].to(device))
    if math.prod(between.shape):
        scores = torch.unflatten(_score_all(between, score, batch_size, device), 0, between.shape)
        found[..., 1:-1, :] = scores.permute(2, 3, 0, 1, 4, 5)
    found[:, 0, :, :, 0] = found[:, 1, :, :, -1] = whole.unsqueeze(1)
    found[:, 0, :, :, -1] = found[:, 1, :, :, 0] = torch.stack(bare).unsqueeze(2)
    return found


def passes(orders: int, fills: int, steps: int) -> int:
    """How many images `curves` puts through the model for each image that it is given."""
    return 1 + fills * (1 + len(KINDS) * orders * (steps - 1))


class _MadeImages(Protocol):
    """Images that are made when they are scored: together they would not fit into memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """How the images are laid out; their number is the product."""

    def make(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) positions in the flattened layout -> (n, 3, H, W) uint8 images, (n,) numbers of their originals."""


@dataclass(frozen=True)
class _Ends:
    """(1+F, B, 3, H, W): the images themselves, then each fill of them."""

    images: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """(1+F, B)."""
        return tuple(self.images.shape[:2])

    def make(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) -> (n, 3, H, W), (n,): copies of the images and fills."""
        which, b = torch.unravel_index(flat, self.shape)
        return self.images[which, b], b


@dataclass(frozen=True)
class _Between:
    """Images with some patches removed, laid out as (B, O, F, 2, K-1).

    images (B, 3, H, W), filled (F, B, 3, H, W). ranks (B, O, M): a patch's place in an order. patches (H, W) as in
    `curves`. counts (K-1,): how many patches come first, in the steps between the ends.
    """

    images: Tensor
    filled: Tensor
    ranks: Tensor
    patches: Tensor
    counts: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, O, F, 2, K-1)."""
        return (*self.ranks.shape[:2], len(self.filled), len(KINDS), len(self.counts))

    def make(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) -> (n, 3, H, W), (n,): each removed patch shows the fill."""
        b, o, f, kind, k = torch.unravel_index(flat, self.shape)
        early = self.ranks[b, o] < self.counts[k].unsqueeze(1)
        removed = early ^ kind.bool().unsqueeze(1)  # deletion removes the early patches, insertion the others
        return torch.where(removed[:, self.patches].unsqueeze(1), self.filled[f, b], self.images[b]), b


def _score_all(made: _MadeImages, score: ImageScore, batch_size: int, device: torch.device) -> Tensor:
    """(number of images, S) float32 on the CPU."""
    total = math.prod(made.shape)
    found = []
    for start in range(0, total, batch_size):
        images, numbers = made.make(torch.arange(start, min(start + batch_size, total), device=device))
        found.append(score(images, numbers).float())
    return torch.cat(found).cpu()


def area(values: Tensor, counts: Tensor) -> Tensor:
    """(..., K+1) scores -> (...) area under them by the trapezoidal rule, over the share of patches from 0 to 1."""
    return torch.trapezoid(values.double(), counts / counts[-1], dim=-1)
