"""Attention of several heads: whole, or for one row of queries.

Legend: B batch, N tokens, D channels, E joint width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Record = list[Tensor] | None  # where each block adds its attention weights; None where they are not wanted
_FEW_TOKENS = 512


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) -> (B, H, N, D/H)."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, D/H) -> (B, N, D)."""
    return x.transpose(1, 2).flatten(2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, record: Record = None, scale: float | None = None
) -> Tensor:
    """Scaled dot-product attention, each argument (B, H, N, D/H); its (B, H, N, N) weights are appended to `record`.

    `scale` multiplies the scores, by default (D/H)^-0.5. Fused kernels never form the weights, so they are written out
    only where they are wanted, where that is faster, or where a gradient is wanted on a GPU: the fused kernels' ways
    back add up in whatever order their threads finish, and the same input would not give the same bytes twice. Where
    they are written out in bfloat16, their rounding is part of the result, about 0.5 % of the largest weight.
    """
    if record is None and _needs_one_order(q, k, v):
        return _written_out_wide(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale, causal)
    if record is None and (causal or not _faster_written_out(q, k)):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    if causal:
        raise ValueError("weights are recorded only in the image tower and the MIM, which are not causal")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if record is None:
        return _written_out(q, k, v, scale)
    weights = (q * scale @ k.transpose(2, 3)).softmax(dim=-1)
    if torch.is_grad_enabled() and not weights.requires_grad:
        weights.requires_grad_(True)  # the graph begins at the first weights: no gradient is wanted before them
    record.append(weights)
    found: Tensor = weights @ v
    return found


def _written_out(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """(B, H, N, D/H) each -> (B, H, N, D/H); the scale is part of the first product."""
    batch = q.shape[:2]
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    return torch.unflatten(torch.bmm(scores.softmax(dim=-1), v), 0, batch)


def _written_out_wide(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """As `_written_out`, with scores and weights in float32 at least, as a fused kernel has them."""
    wide = torch.promote_types(q.dtype, torch.float32)
    batch, dtype = q.shape[:2], v.dtype
    q, k = (t.to(wide, memory_format=torch.contiguous_format) for t in (q, k))  # one pass for the type and the layout
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    if causal:
        scores = scores + torch.full(scores.shape[1:], -torch.inf, device=q.device).triu(1)
    return torch.unflatten(torch.bmm(scores.softmax(dim=-1).to(dtype), v), 0, batch)


def _needs_one_order(*inputs: Tensor) -> bool:
    """Whether a gradient will go back through the attention on a GPU."""
    return torch.is_grad_enabled() and inputs[0].device.type != "cpu" and any(t.requires_grad for t in inputs)


def _faster_written_out(q: Tensor, k: Tensor) -> bool:
    """Whether two products and a softmax take less time than the fused kernel.

    On a CPU in bfloat16 they do. Measured for 129 tokens: a fifth of the time with the backward pass, half of it
    without. From about a thousand tokens on they do not, and the weights would take the most memory of all.
    """
    few = q.shape[-2] * k.shape[-2] <= _FEW_TOKENS**2
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and few


def scores_of(query: Tensor, tokens: Tensor, key_weight: Tensor) -> Tensor:
    """One query (B or 1, H, D/H) against (B, N, E) tokens whose keys would be tokens @ key_weight.T -> (B, H, N).

    q (W x) = (q W) x: with one query the keys of all tokens need not be formed, which would take E/H times as long. A
    bias of the keys adds the same to every token's score, and softmax drops it. Scores are float32 or wider: if they
    were rounded, it would show in the weights, and twice as much in every gradient through them.
    """
    heads = query.shape[1]
    wide = torch.promote_types(tokens.dtype, torch.float32)
    on_tokens = torch.bmm(query.transpose(0, 1), torch.unflatten(key_weight, 0, (heads, -1)))  # (H, B or 1, E)
    return on_tokens.transpose(0, 1).to(wide) @ tokens.transpose(1, 2).to(wide)


def attend_once(
    x: Tensor, weight: Tensor, bias: Tensor | None, heads: int, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """(B, N, D) -> what CLS, token 0, gathers from all tokens, (B, D), and its (B, H, N) weights, float32 or wider.

    `weight` (3D, D) and `bias` (3D,) make queries, keys and values. Neither keys nor values of the tokens are formed:
    the value of the weighted sum is the weighted sum of the values, since a head's weights sum to 1. `scale` multiplies
    the scores, by default (D/H)^-0.5.
    """
    q_weight, k_weight, v_weight = weight.chunk(3)
    q_bias, _, v_bias = (None,) * 3 if bias is None else bias.chunk(3)
    q = torch.unflatten(F.linear(x[:, 0], q_weight, q_bias), -1, (heads, -1))
    weights = scores_of(q * (q.shape[-1] ** -0.5 if scale is None else scale), x, k_weight).softmax(dim=-1)
    gathered = (weights.to(x.dtype) @ x).transpose(0, 1)  # (H, B, D)
    values = torch.bmm(gathered, torch.unflatten(v_weight, 0, (heads, -1)).transpose(1, 2))
    merged = values.transpose(0, 1).flatten(1)
    return (merged if v_bias is None else merged + v_bias), weights
