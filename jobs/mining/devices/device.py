"""What mining asks of a device: a batch up, its results down, and when the host's memory may be used again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Numbers: TypeAlias = "NDArray[np.float32] | NDArray[np.int64]"


class Mark(Protocol):
    """A point in the device's work."""

    def passed(self) -> bool:
        """Whether the device is past it. Does not wait."""

    def wait(self) -> None:
        """Waits until the device is past it. Raises what went wrong on the device before it."""


@dataclass(frozen=True)
class Uploaded:
    """Tensors on the device. The host's memory that they were copied from must not change before `copied`."""

    images: Tensor
    constants: tuple[Tensor, ...]
    copied: Mark


class Download(Protocol):
    """Results on their way to the host."""

    def take(self) -> Mapping[str, Numbers]:
        """The arrays by name, once they have arrived. Nothing else writes into them while they are held."""


class Device(Protocol):
    """Copies to and from the model's device.

    `behind` says for how many batches the results may be left on their way while further ones are launched.
    """

    behind: int

    def pin(self, memory: Tensor) -> None:
        """Makes copies from this memory, which is used again and again, run beside the arithmetic, if possible."""

    def upload(self, images: Tensor, constants: Sequence[Tensor] = ()) -> Uploaded:
        """uint8 (B, 3, H, W) and the constants of a batch, int64 or float32, on the device.

        What is launched next on the device waits for them by itself.
        """

    def download(self, results: Mapping[str, Tensor]) -> Download:
        """Starts to bring float32 and int64 tensors by name to the host, once what was launched before is done."""

    def close(self) -> None:
        """Waits for copies that are under way, and gives back what was pinned."""


class Streams(Protocol):
    """The copies that a device with streams does beside its arithmetic, and memory of the host for them."""

    def pin(self, memory: Tensor) -> None:
        """As of `Device`."""

    def host_memory(self, count: int) -> Tensor:
        """(count,) int32. It is not given out again while a tensor, an array or a copy uses it."""

    def up(self, sources: Sequence[Tensor]) -> tuple[list[Tensor], Mark]:
        """Starts to copy to the device. What is launched from now on waits for the copies."""

    def down(self, sources: Sequence[Tensor], target: Tensor) -> Mark:
        """Starts to copy one-dimensional tensors, one after the other, to the host, after what was launched before.

        It is one copy, and what is launched from now on does not wait for it.
        """

    def close(self) -> None:
        """As of `Device`."""
