"""A device whose copies run beside its arithmetic: images and constants up, all results down in one copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.mining.devices.device import Mark, Numbers, Streams, Uploaded
from jobs.mining.devices.packing import Packed, arrays_of, words_of


@dataclass(frozen=True)
class _Packed:
    """Results on their way into `words`, which nothing else uses before they are taken and let go."""

    names: tuple[str, ...]
    packed: Packed
    words: Tensor
    arrived: Mark

    def take(self) -> Mapping[str, Numbers]:
        self.arrived.wait()
        return arrays_of(self.words, self.names, self.packed)


class StreamedDevice:
    """Each batch is one copy of its images, at most one of all its constants, and one of all its results.

    The results are read one batch behind: the device has the next batch to work on while the host takes them.
    """

    behind = 1

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def pin(self, memory: Tensor) -> None:
        """Registers memory that images come in."""
        self._streams.pin(memory)

    def upload(self, images: Tensor, constants: Sequence[Tensor] = ()) -> Uploaded:
        """Starts the copies. The constants go through memory of their own, so that only the images must stay."""
        if not constants:
            (there,), mark = self._streams.up([images])
            return Uploaded(there, (), mark)
        packed = Packed.of(constants)
        words = self._streams.host_memory(packed.count)
        torch.cat(words_of(constants, packed), out=words)
        (there, numbers), mark = self._streams.up([images, words])
        return Uploaded(there, tuple(packed.views_of(numbers)), mark)

    def download(self, results: Mapping[str, Tensor]) -> _Packed:
        """Starts the one copy of all results."""
        tensors = list(results.values())
        packed = Packed.of(tensors)
        words = self._streams.host_memory(packed.count)
        arrived = self._streams.down(words_of(tensors, packed), words)
        return _Packed(tuple(results), packed, words, arrived)

    def close(self) -> None:
        """Ends the copies."""
        self._streams.close()
