"""Several tensors in one: a copy to or from a device costs the same time whether it is short or long.

The bits are packed as int32 words, so that every number, NaN included, comes out as it went in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.mining.devices.device import Numbers

_TYPES = {torch.int64: np.int64, torch.float32: np.float32}


@dataclass(frozen=True)
class Packed:
    """The types and shapes of tensors that lie one after the other, those with the widest numbers first."""

    dtypes: tuple[torch.dtype, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Packed:
        """Raises ValueError for tensors of another type than int64 and float32."""
        if others := {tensor.dtype for tensor in tensors} - set(_TYPES):
            raise ValueError(f"only int64 and float32 are packed, and not {', '.join(map(str, others))}")
        return cls(tuple(tensor.dtype for tensor in tensors), tuple(tuple(tensor.shape) for tensor in tensors))

    @property
    def count(self) -> int:
        """The number of words."""
        return sum(self._sizes())

    def views_of(self, words: Tensor) -> list[Tensor]:
        """(count,) int32 -> the tensors, in the order in which they were given. They share its memory."""
        pieces = zip(self._pieces(words), self.dtypes, self.shapes, strict=True)
        return [piece.view(dtype).view(shape) for piece, dtype, shape in pieces]

    def _sizes(self) -> list[int]:
        """Words of each."""
        shapes = zip(self.dtypes, self.shapes, strict=True)
        return [dtype.itemsize // 4 * int(np.prod(shape, dtype=np.int64)) for dtype, shape in shapes]

    def _pieces(self, words: Tensor) -> list[Tensor]:
        sizes = self._sizes()
        starts = {}
        reached = 0
        for number in self.order():
            starts[number] = reached
            reached += sizes[number]
        return [words[starts[number] : starts[number] + size] for number, size in enumerate(sizes)]

    def order(self) -> list[int]:
        """The tensors' numbers as they lie: a number of eight bytes begins at a multiple of eight."""
        return sorted(range(len(self.dtypes)), key=lambda number: -self.dtypes[number].itemsize)


def words_of(tensors: Sequence[Tensor], packed: Packed) -> list[Tensor]:
    """The tensors as one-dimensional int32, in the order in which they lie."""
    return [tensors[number].detach().contiguous().view(-1).view(torch.int32) for number in packed.order()]


def arrays_of(words: Tensor, names: Sequence[str], packed: Packed) -> Mapping[str, Numbers]:
    """(count,) int32 of the host -> arrays by name that share its memory, and keep it."""
    return {name: tensor.numpy() for name, tensor in zip(names, packed.views_of(words), strict=True)}
