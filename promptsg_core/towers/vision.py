"""CLIP's image tower on a patch grid of any shape and stride.

Legend: B batch, M patches, D channels, h w grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from promptsg_core.config import ModelConfig
from promptsg_core.towers.transformer import ClipTransformer, Record


class VisionTower(nn.Module):
    """Images to tokens. The positional embedding is stored for this grid, CLS first, and is not resized here."""

    def __init__(self, config: ModelConfig) -> None:
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

    def forward(self, images: Tensor, record: Record = None) -> Tensor:
        """(B, 3, H, W) normalised RGB -> (B, 1+M, D): the last block's output, before `ln_post`.

        Raises ValueError when the images do not have the size that the positional embedding is made for.
        """
        if tuple(images.shape[1:]) != (3, *self.image_size):
            h, w = self.image_size
            raise ValueError(f"images are {tuple(images.shape)}, expected (B, 3, {h}, {w})")
        patches = self.conv1(images.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        cls = self.class_embedding.expand(len(images), 1, -1)
        tokens = torch.cat([cls, patches], dim=1) + self.positional_embedding
        found: Tensor = self.transformer(self.ln_pre(tokens), record=record)
        return found
