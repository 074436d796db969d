"""What follows from parameters alone: computed once, and kept while they stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

T = TypeVar("T")


class Kept(Generic[T]):
    """One value that follows from tensors.

    It is computed again after one of them was edited in place, or moved, converted or replaced. Edits through `.data`
    are not seen. It is in no state dict, and copies of a module start without it.
    """

    def __init__(self) -> None:
        self._state: tuple[int, ...] | None = None
        self._held: list[StorageWeakRef] = []  # while there is one, no other storage has its number
        self._value: T | None = None

    def of(self, tensors: Sequence[Tensor], compute: Callable[[], T]) -> T:
        """The value, by `compute` where it is not known.

        Where a gradient by the tensors is wanted it is computed each time, and so it is while torch compiles.
        """
        if torch.compiler.is_compiling() or any(tensor.is_inference() for tensor in tensors):
            return compute()
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return compute()
        state = _state_of(tensors)
        if self._value is None or state != self._state:
            with torch.inference_mode(False), torch.no_grad():  # it may be part of a gradient later
                self._value = compute()
            self._held = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]  # type: ignore[no-untyped-call]
            self._state = state
        return self._value

    def __reduce__(self) -> tuple[type[Kept[T]], tuple[()]]:
        return type(self), ()


def _state_of(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Which memory tensors lie in and how often it was written to: another after they were moved or changed."""
    return tuple(
        number
        for tensor in tensors
        for number in (int(tensor.untyped_storage()._cdata), int(tensor.storage_offset()), tensor._version)
    )
