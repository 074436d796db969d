"""A device that is the host itself: nothing is copied, and results are there when they are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from jobs.mining.devices.device import Numbers, Uploaded


@dataclass(frozen=True)
class _NeverCopied:
    """The model reads the host's memory itself, as long as anything does."""

    def passed(self) -> bool:
        return False

    def wait(self) -> None:
        pass


@dataclass(frozen=True)
class _Arrays:
    results: Mapping[str, Tensor]

    def take(self) -> Mapping[str, Numbers]:
        return {name: result.detach().contiguous().cpu().numpy() for name, result in self.results.items()}


class HostDevice:
    """The CPU. Its results share their memory with the model's tensors."""

    behind = 0

    def pin(self, memory: Tensor) -> None:
        """Nothing to do."""

    def upload(self, images: Tensor, constants: Sequence[Tensor] = ()) -> Uploaded:
        """The tensors themselves."""
        return Uploaded(images, tuple(constants), _NeverCopied())

    def download(self, results: Mapping[str, Tensor]) -> _Arrays:
        """The tensors themselves, as arrays."""
        return _Arrays(results)

    def close(self) -> None:
        """Nothing to do."""
