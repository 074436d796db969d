"""CLIP's pre-norm transformer block, shared by the image tower and the text tower.

Legend: B batch, N tokens, D channels, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.towers.linear import Linear, linear

Record = list[Tensor] | None  # where each block adds its attention weights; None where they are not wanted
_SLOPE = 1.702  # of QuickGELU
_FEW_TOKENS = 512


def add_mlp(x: Tensor, norm: nn.LayerNorm, first: nn.Linear, second: nn.Linear) -> Tensor:
    """(..., D) -> x + second(QuickGELU(first(norm(x)))), a block's second half.

    QuickGELU(a) = a * sigmoid(1.702 a) = silu(1.702 a) / 1.702. The first factor goes into the norm and into the bias
    after it, the second factor into the last sum: a pass over the widest tensor of the model takes longer than its
    arithmetic. The modules are read and not called, so hooks on them do not fire.
    """
    normed = F.layer_norm(x, norm.normalized_shape, _SLOPE * norm.weight, _SLOPE * norm.bias, norm.eps)
    inner = linear(normed, first.weight, _SLOPE * first.bias)
    inner = F.silu(inner, inplace=not (torch.is_grad_enabled() and inner.requires_grad))
    return torch.add(x, linear(inner, second.weight, _SLOPE * second.bias), alpha=1 / _SLOPE)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, H, N, D/H)."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, D/H) -> (B, N, D)."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, record: Record = None) -> Tensor:
    """Scaled dot-product attention, each argument (B, H, N, D/H); its (B, H, N, N) weights are appended to `record`.

    Fused kernels never form the weights, so they are written out only where they are wanted or where that is faster. In
    bfloat16 their rounding is then part of the result, about 0.5 % of the largest weight.
    """
    if record is None and (causal or not _faster_written_out(q, k)):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    if causal:
        raise ValueError("weights are recorded only in the image tower and the MIM, which are not causal")
    if record is None:
        return _written_out(q, k, v)
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)).softmax(dim=-1)
    if torch.is_grad_enabled() and not weights.requires_grad:
        weights.requires_grad_(True)  # the graph begins at the first weights: no gradient is wanted before them
    record.append(weights)
    found: Tensor = weights @ v
    return found


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, H, N, D/H) each -> (B, H, N, D/H); the scale is part of the first product."""
    batch, scale = q.shape[:2], q.shape[-1] ** -0.5
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    return torch.unflatten(torch.bmm(scores.softmax(dim=-1), v), 0, batch)


def _faster_written_out(q: Tensor, k: Tensor) -> bool:
    """Whether two products and a softmax take less time than the fused kernel.

    On a CPU in bfloat16 they do. Measured for 129 tokens: a fifth of the time with the backward pass, half of it
    without. From about a thousand tokens on they do not, and the weights would take the most memory of all.
    """
    few = q.shape[-2] * k.shape[-2] <= _FEW_TOKENS**2
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and few


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

    def forward(self, x: Tensor, causal: bool = False, record: Record = None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = self.project(x)
        found: Tensor = self.out_proj(merge_heads(attend(q, k, v, causal=causal, record=record)))
        return found


class ClipMlp(nn.Module):
    """Linear, QuickGELU, linear, four times as wide inside, with the norm before and the sum after."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """(B, N, D) -> (B, N, D): x + the MLP of norm(x)."""
        return add_mlp(x, norm, self.c_fc, self.c_proj)


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
