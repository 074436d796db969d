"""Blocks run one after another, each with a graph of its own.

Legend: B batch, N tokens, D channels, H heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor

from promptsg_core.towers.attention import Record


class RecordingBlock(Protocol):
    """A block that can record its attention weights."""

    def __call__(self, x: Tensor, *, record: Record) -> Tensor:
        """(B, N, D) -> (B, N, D); the weights are appended to `record`."""


def one_by_one(blocks: Iterable[RecordingBlock], x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, N, D) through blocks -> each block's output, and its (B, H, N, N) weights, at which its graph begins.

    Gradients must be on. No graph reaches from a block into the one before.
    """
    for block in blocks:
        record: list[Tensor] = []
        x = block(x.detach(), record=record)
        yield x, record[0]
