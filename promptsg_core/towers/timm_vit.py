"""A vision transformer as timm writes it: pre-norm blocks with exact GELU and norms of epsilon 1e-6.

Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels, H heads, R rows of the camera embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.config import grid_of
from promptsg_core.towers.attention import Record, attend, attend_once, merge_heads, split_heads
from promptsg_core.towers.linear import Linear
from promptsg_core.towers.stack import Stack
from promptsg_core.towers.vision import check_size

EPSILON = 1e-6  # of all norms


@dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """Sizes of a block. `scale` multiplies the attention's scores; `mlp_width` is the width inside the MLP."""

    width: int
    heads: int
    mlp_width: int
    scale: float
    qkv_bias: bool = True


@dataclass(frozen=True, kw_only=True)
class TimmSizes:
    """Sizes of a tower; `image_size` is (height, width). `cameras` is the number of rows of a camera embedding, or 0.

    `normed` says whether a norm follows the blocks.
    """

    image_size: tuple[int, int]
    patch_size: int
    stride: int
    layers: int
    block: BlockSizes
    cameras: int = 0
    normed: bool = True


class TimmAttention(nn.Module):
    """Self-attention with one fused projection."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.heads, self.scale = sizes.heads, sizes.scale
        self.qkv = Linear(sizes.width, 3 * sizes.width, bias=sizes.qkv_bias)
        self.proj = Linear(sizes.width, sizes.width)

    def forward(self, x: Tensor, record: Record = None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, dim=-1))
        found: Tensor = self.proj(merge_heads(attend(q, k, v, record=record, scale=self.scale)))
        return found

    def cls_only(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) -> (B, D): row 0 of `forward`, and its (B, H, N) weights."""
        gathered, weights = attend_once(x, self.qkv.weight, self.qkv.bias, self.heads, self.scale)
        return self.proj(gathered), weights


class TimmMlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.fc1 = Linear(sizes.width, sizes.mlp_width)
        self.fc2 = Linear(sizes.mlp_width, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        found: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return found


class TimmBlock(nn.Module):
    """x + attn(norm1(x)), then + mlp(norm2(x))."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, eps=EPSILON)
        self.attn = TimmAttention(sizes)
        self.norm2 = nn.LayerNorm(sizes.width, eps=EPSILON)
        self.mlp = TimmMlp(sizes)

    def forward(self, x: Tensor, record: Record = None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attn(self.norm1(x), record)
        found: Tensor = x + self.mlp(self.norm2(x))
        return found

    def cls_only(self, cls: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) CLS and (B, N, D) `norm1` of all tokens -> (B, D): row 0 of `forward`; its (B, H, N) weights."""
        gathered, weights = self.attn.cls_only(normed)
        cls = cls + gathered
        found: Tensor = cls + self.mlp(self.norm2(cls))
        return found, weights


class PatchEmbed(nn.Module):
    """Images to patch tokens; patches overlap where the stride is less than their size."""

    def __init__(self, width: int, patch_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, M, D)."""
        found: Tensor = self.proj(images.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)
        return found


class TimmVit(nn.Module):
    """Images to tokens. The positional embedding is stored for this grid, CLS first, and is not resized here."""

    def __init__(self, sizes: TimmSizes) -> None:
        super().__init__()
        width, (h, w) = sizes.block.width, grid_of(sizes.image_size, sizes.patch_size, sizes.stride)
        self.image_size = sizes.image_size
        self.patch_embed = PatchEmbed(width, sizes.patch_size, sizes.stride)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + h * w, width) * 0.02)
        if sizes.cameras:
            self.sie_embed = nn.Parameter(torch.randn(sizes.cameras, 1, width) * 0.02)
        self.blocks = nn.ModuleList([TimmBlock(sizes.block) for _ in range(sizes.layers)])
        self.stack = Stack()
        if sizes.normed:
            self.norm = nn.LayerNorm(width, eps=EPSILON)

    def embed(self, images: Tensor, added: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) normalised RGB -> (B, N, D): the tokens before the first block.

        `added`, (B, D) or (1, D), is added to every token. Raises ValueError when the images do not have the size that
        the positional embedding is made for.
        """
        check_size(images, self.image_size)
        patches = self.patch_embed(images)
        place = self.pos_embed if added is None else self.pos_embed + added.unsqueeze(1)
        return torch.cat([self.cls_token.expand(len(images), 1, -1), patches], dim=1) + place

    def block(self, number: int) -> TimmBlock:
        """A block by its number, which may count from the end."""
        found = self.blocks[number]
        assert isinstance(found, TimmBlock)
        return found

    def run(self, x: Tensor, blocks: int, record: Record = None) -> Tensor:
        """(B, N, D) tokens -> (B, N, D) after the first so many blocks."""
        if record is None:
            return self.stack.run([self.block(number) for number in range(blocks)], x)
        for number in range(blocks):
            x = self.block(number)(x, record)
        return x
