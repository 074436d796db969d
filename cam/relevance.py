"""Relevance through all blocks: attention rollout, gradient-weighted attention, and LeGrad.

The first two follow one row, that of CLS, from which the score is read, through the blocks from the last to the first.
This takes a vector times a matrix for each block, and equals the papers' products of whole matrices read at that row.

Legend: B batch, L blocks (first to last), H heads, N = 1+M tokens (CLS first), M patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cam.precision import at_least_float32, without_autocast


def rollout(attentions: Sequence[Tensor]) -> Tensor:
    """L weights (B, H, N, N) -> (B, M): the share of each patch in CLS, by attention alone.

    Abnar and Zuidema 2020, arXiv:2005.00928, equation 1: A~ = (A + I) / 2 with A the mean over the heads, rows summing
    to 1, multiplied over the blocks.
    """
    row = _cls_row(attentions[-1])
    with without_autocast(row):
        for weights in reversed(attentions):
            mixed = (_float32(weights).mean(dim=1) + _identity(weights)) / 2
            row = row @ (mixed / mixed.sum(dim=2, keepdim=True))
    return row[:, 0, 1:]


def chefer(attentions: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """L attention weights and the score's gradients by them, each (B, H, N, N) -> (B, M): weighted relevance, >= 0.

    Chefer, Gur and Wolf 2021, arXiv:2103.15679, equations 5 and 6, self-attention: R = R + A_bar R with
    A_bar = mean over the heads of relu(gradient * A), R = I at the start.
    """
    row = _cls_row(attentions[-1])
    with without_autocast(row):
        for weights, gradient in zip(reversed(attentions), reversed(gradients), strict=True):
            relevance = torch.relu(_float32(gradient) * _float32(weights)).mean(dim=1)
            row = row + row @ relevance
    return row[:, 0, 1:]


def legrad(gradients: Iterable[Tensor]) -> Tensor:
    """L gradients (B, H, N, N), of the score read out after each block by that block's weights -> (B, M), >= 0.

    Bousselham et al. 2024, arXiv:2404.03214: the positive part, its mean over heads and queries, then over the blocks,
    without CLS. The map is raw, where the authors' code stretches it to the range from 0 to 1. The gradients are read
    one by one.
    """
    blocks = [torch.relu(_float32(gradient)).mean(dim=(1, 2))[:, 1:] for gradient in gradients]
    return torch.stack(blocks).mean(dim=0)


def _cls_row(weights: Tensor) -> Tensor:
    """(B, 1, N): 1 at CLS, 0 elsewhere."""
    row = torch.zeros(len(weights), 1, weights.shape[-1], device=weights.device, dtype=_float32(weights[:0]).dtype)
    row[:, :, 0] = 1
    return row


def _identity(weights: Tensor) -> Tensor:
    return torch.eye(weights.shape[-1], device=weights.device)


def _float32(tensor: Tensor) -> Tensor:
    return at_least_float32(tensor.detach())
