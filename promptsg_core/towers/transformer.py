"""CLIP's pre-norm transformer block, shared by the image tower and the text tower.

Legend: B batch, N tokens, D channels, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.towers.attention import Record, attend, attend_once, merge_heads, split_heads
from promptsg_core.towers.kept import Kept
from promptsg_core.towers.linear import Linear, linear

_SLOPE = 1.702  # of QuickGELU


@dataclass(frozen=True)
class ScaledVectors:
    """What of an MLP is multiplied by QuickGELU's factor: the norm's weight and bias, the biases of both layers."""

    weight: Tensor
    shift: Tensor
    first: Tensor
    second: Tensor


KeptVectors: TypeAlias = Kept[ScaledVectors]


def add_mlp(
    x: Tensor, norm: nn.LayerNorm, first: nn.Linear, second: nn.Linear, kept: KeptVectors | None = None
) -> Tensor:
    """(..., D) -> x + second(QuickGELU(first(norm(x)))), a block's second half.

    QuickGELU(a) = a * sigmoid(1.702 a) = silu(1.702 a) / 1.702. The first factor goes into the norm and into the bias
    after it, the second factor into the last sum: a pass over the widest tensor of the model takes longer than its
    arithmetic. What the factors make of the parameters is in `kept`. The modules are read and not called, so hooks on
    them do not fire.
    """
    own = (norm.weight, norm.bias, first.bias, second.bias)
    scaled = (kept or Kept()).of(own, lambda: ScaledVectors(*(_SLOPE * vector for vector in own)))
    normed = F.layer_norm(x, norm.normalized_shape, scaled.weight, scaled.shift, norm.eps)
    inner = linear(normed, first.weight, scaled.first)
    inner = F.silu(inner, inplace=not (torch.is_grad_enabled() and inner.requires_grad))
    return torch.add(x, linear(inner, second.weight, scaled.second), alpha=1 / _SLOPE)


class ClipAttention(nn.Module):
    """Self-attention with one fused projection; parameters are named as in torch.nn.MultiheadAttention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> queries, keys and values, each (B, H, N, D/H)."""
        q, k, v = linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)

    def project_after(self, before: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, P, 2D) keys and values of a constant start, (B, N, D) -> queries (B, H, N, D/H) of x, and keys and values
        (B, H, P+N, D/H) of both.
        """
        found = linear(x, self.in_proj_weight, self.in_proj_bias)
        width = x.shape[-1]
        both = torch.cat([before.expand(len(x), -1, -1), found[..., width:]], dim=1)
        q, (k, v) = found[..., :width], both.chunk(2, dim=-1)
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)

    def forward(self, x: Tensor, causal: bool = False, record: Record = None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = self.project(x)
        found: Tensor = self.out_proj(merge_heads(attend(q, k, v, causal=causal, record=record)))
        return found

    def cls_only(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) -> (B, D): row 0 of `forward`, and its (B, H, N) weights."""
        gathered, weights = attend_once(x, self.in_proj_weight, self.in_proj_bias, self.heads)
        return self.out_proj(gathered), weights


class ClipMlp(nn.Module):
    """Linear, QuickGELU, linear, four times as wide inside, with the norm before and the sum after."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        self._scaled: KeptVectors = Kept()

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """(B, N, D) -> (B, N, D): x + the MLP of norm(x)."""
        return add_mlp(x, norm, self.c_fc, self.c_proj, self._scaled)


class ClipBlock(nn.Module):
    """x + attn(ln_1(x)), then + mlp(ln_2(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = ClipAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = ClipMlp(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, causal: bool = False, record: Record = None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attn(self.ln_1(x), causal, record)
        found: Tensor = self.mlp(x, self.ln_2)
        return found

    def cls_only(self, x: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D) tokens and `ln_1` of them -> (B, D): row 0 of `forward`, up to rounding; its (B, H, N) weights."""
        gathered, weights = self.attn.cls_only(normed)
        found: Tensor = self.mlp(x[:, 0] + gathered, self.ln_2)
        return found, weights


class ClipTransformer(nn.Module):
    """A stack of blocks, called `resblocks` as in CLIP's checkpoints."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([ClipBlock(width, heads) for _ in range(layers)])

    @property
    def blocks(self) -> list[ClipBlock]:
        """The blocks, first to last."""
        return [block for block in self.resblocks if isinstance(block, ClipBlock)]

    def forward(self, x: Tensor, causal: bool = False, record: Record = None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        for block in self.blocks:
            x = block(x, causal, record)
        return x
