"""Blocks that run one after another where nobody looks in between, and a faster way that may be put in their place.

Legend: B batch, N tokens, D channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Way(Protocol):
    """A way to run blocks."""

    def __call__(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D) after the last of the blocks."""


def one_after_another(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """(B, N, D) -> (B, N, D): each block is called."""
    for block in blocks:
        x = block(x)
    return x


class Stack:
    """How a tower runs its blocks. Where a gradient may be wanted they are always called one after another.

    It is in no state dict, and copies of a module start with the plain way.
    """

    def __init__(self) -> None:
        self._way: Way = one_after_another

    def run(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D) after the last of the blocks."""
        return (one_after_another if torch.is_grad_enabled() else self._way)(blocks, x)

    @contextlib.contextmanager
    def by(self, way: Way) -> Iterator[None]:
        """Another way for a while."""
        before, self._way = self._way, way
        try:
            yield
        finally:
            self._way = before

    def __reduce__(self) -> tuple[type[Stack], tuple[()]]:
        return type(self), ()


def stacks_of(model: nn.Module) -> list[Stack]:
    """The stacks of all towers within a model."""
    found = (getattr(module, "stack", None) for module in model.modules())
    return [stack for stack in found if isinstance(stack, Stack)]
