"""CLIP's image tower on a patch grid of any shape and stride.

Legend: B batch, M patches, D channels, h w grid.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from promptsg_core.config import ClipConfig
from promptsg_core.taps import Layer, Taps, unseen_layers
from promptsg_core.towers.attention import Record
from promptsg_core.towers.stack import Stack
from promptsg_core.towers.transformer import ClipTransformer


def check_size(images: Tensor, size: tuple[int, int]) -> None:
    """Raises ValueError unless the images are (B, 3, height, width) of this size."""
    if tuple(images.shape[1:]) != (3, *size):
        raise ValueError(f"images are {tuple(images.shape)}, expected (B, 3, {size[0]}, {size[1]})")


class VisionTower(nn.Module):
    """Images to tokens. The positional embedding is stored for this grid, CLS first, and is not resized here."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width, (h, w) = config.vision_width, config.grid
        self.grid = config.grid
        self.image_size = config.image_size
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.stride, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(1 + h * w, width) * width**-0.5)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = ClipTransformer(width, config.vision_layers, config.vision_heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, config.embed_dim) * width**-0.5)
        self.stack = Stack()

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
        if record is None:
            return self.stack.run(self.transformer.blocks, self.embed(images))
        found: Tensor = self.transformer(self.embed(images), record=record)
        return found

    def before_last(self, images: Tensor, on_cls: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, 1+M, D): the input of the last block; `on_cls` as for `embed`."""
        return self.stack.run(self.transformer.blocks[:-1], self.embed(images, on_cls))

    def last_for_cls(self, tokens: Tensor, taps: Taps) -> tuple[Tensor, Tensor]:
        """(B, 1+M, D) before the last block -> (B, D) of CLS after it, and its (B, H, M) attention to the patches.

        The tap `vit_norm` lies on the block's first norm: where only CLS is read, no score reaches a patch after it.
        """
        last = self.transformer.blocks[-1]
        cls, weights = last.cls_only(tokens, taps.open("vit_norm", last.ln_1(tokens)))
        return cls, weights[..., 1:]

    def project(self, x: Tensor) -> Tensor:
        """(..., D) after the last block -> (..., E)."""
        found: Tensor = self.ln_post(x) @ self.proj
        return found


def layers_before_last_attention(tower: str, config: ClipConfig, outputs: Collection[str]) -> dict[str, Layer]:
    """The layers of a model that reads CLS alone after the last block; `tower` is the path of its image tower."""
    last = f"{tower}.transformer.resblocks.{config.vision_layers - 1}"
    modules = (tower, f"{tower}.transformer", last, f"{last}.ln_1")
    return {"vit_norm": Layer(outputs=frozenset(outputs), modules=modules), **unseen_layers()}
