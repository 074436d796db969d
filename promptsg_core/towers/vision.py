"""CLIP's image tower on a patch grid of any shape and stride.

Legend: B batch, M patches, D channels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from promptsg_core.config import grid_of
from promptsg_core.towers.attention import Record
from promptsg_core.towers.transformer import ClipTransformer


@dataclass(frozen=True, kw_only=True)
class VisionSizes:
    """Sizes of an image tower; `image_size` is (height, width), `embed_dim` the width of its projection."""

    image_size: tuple[int, int]
    patch_size: int
    stride: int
    width: int
    layers: int
    heads: int
    embed_dim: int

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches."""
        return grid_of(self.image_size, self.patch_size, self.stride)


def check_size(images: Tensor, size: tuple[int, int]) -> None:
    """Raises ValueError unless the images are (B, 3, height, width) of this size."""
    if tuple(images.shape[1:]) != (3, *size):
        raise ValueError(f"images are {tuple(images.shape)}, expected (B, 3, {size[0]}, {size[1]})")


class VisionTower(nn.Module):
    """Images to tokens. The positional embedding is stored for this grid, CLS first, and is not resized here."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        width, (h, w) = sizes.width, sizes.grid
        self.grid = sizes.grid
        self.image_size = sizes.image_size
        self.conv1 = nn.Conv2d(3, width, sizes.patch_size, sizes.stride, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(1 + h * w, width) * width**-0.5)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = ClipTransformer(width, sizes.layers, sizes.heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, sizes.embed_dim) * width**-0.5)

    def embed(self, images: Tensor, on_cls: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) normalised RGB -> (B, 1+M, D): the tokens before the first block.

        `on_cls`, (B, D) or (1, D), is added to CLS. Raises ValueError when the images do not have the size that the
        positional embedding is made for.
        """
        check_size(images, self.image_size)
        patches = self.conv1(images.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        cls = self.class_embedding if on_cls is None else self.class_embedding + on_cls.unsqueeze(1)
        tokens = torch.cat([cls.expand(len(images), 1, -1), patches], dim=1) + self.positional_embedding
        found: Tensor = self.ln_pre(tokens)
        return found

    def forward(self, images: Tensor, record: Record = None) -> Tensor:
        """(B, 3, H, W) normalised RGB -> (B, 1+M, D): the last block's output, before `ln_post`."""
        found: Tensor = self.transformer(self.embed(images), record=record)
        return found

    def before_last(self, images: Tensor, on_cls: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, 1+M, D): the input of the last block; `on_cls` as for `embed`."""
        x = self.embed(images, on_cls)
        for block in self.transformer.blocks[:-1]:
            x = block(x)
        return x
