"""Copies by a GPU of CUDA: a stream for each direction, events, and memory of the host that cannot be swapped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, SupportsInt

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every device of the process


class _Driver(Protocol):
    """What is used of CUDA's own interface. Both give a number, 0 for success."""

    def cudaHostRegister(self, address: int, size: int, flags: int, /) -> SupportsInt:
        """Pins memory."""

    def cudaHostUnregister(self, address: int, /) -> SupportsInt:
        """Gives it back."""


@dataclass(frozen=True)
class _EventMark:
    event: torch.cuda.Event

    def passed(self) -> bool:
        return bool(self.event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        self.event.synchronize()


class CudaStreams:
    """Copies on streams of their own. Arithmetic is launched on the stream that is current when a copy is started.

    The streams of both directions are apart: a copy up for the next batch must not wait for the results of this one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._upward: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._downward: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._driver: _Driver = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        self._registered: list[Tensor] = []  # keeps the memory until it is given back

    def pin(self, memory: Tensor) -> None:
        """Registers the memory as it is: a ring of buffers is pinned once, and no image is copied within the host.

        Where the system refuses, copies from it are slower and not beside the arithmetic; one line says so.
        """
        size = memory.numel() * memory.element_size()
        if not size or memory.is_pinned():
            return
        error = int(self._driver.cudaHostRegister(memory.data_ptr(), size, _PORTABLE))
        if error == 0:
            self._registered.append(memory)
            return
        logger.warning("the memory of the images, %.0f MB, could not be pinned (CUDA error %d; see `ulimit -l`): "
                       "copies to %s are slower", size / 1e6, error, self._device)  # fmt: skip
        self._forget_error()

    def host_memory(self, count: int) -> Tensor:
        """Pinned memory of torch's own cache, which gives it out again once no tensor and no copy uses it."""
        return torch.empty(count, dtype=torch.int32, pin_memory=True)

    def up(self, sources: Sequence[Tensor]) -> tuple[list[Tensor], _EventMark]:
        """Starts the copies. A source that is on the device already is not copied."""
        arithmetic = torch.cuda.current_stream(self._device)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._upward):
            copies = [source.to(self._device, non_blocking=True) for source in sources]
            copied.record(self._upward)
        arithmetic.wait_event(copied)
        for copy in copies:  # allocated for the stream of copies: not to be reused while the arithmetic reads it
            copy.record_stream(arithmetic)
        return copies, _EventMark(copied)

    def down(self, sources: Sequence[Tensor], target: Tensor) -> _EventMark:
        """Packs them on the current stream, and copies once that is done."""
        packed = torch.cat(list(sources))
        # Whoever waits for it sleeps: other threads have work for the core.
        arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._downward.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._downward):
            target.copy_(packed, non_blocking=True)
            arrived.record(self._downward)
        packed.record_stream(self._downward)
        return _EventMark(arrived)

    def close(self) -> None:
        """Waits for the copies, and gives the registered memory back. A GPU that has failed is left as it is."""
        try:
            self._upward.synchronize()
            self._downward.synchronize()
            for memory in self._registered:
                self._driver.cudaHostUnregister(memory.data_ptr())
        except RuntimeError:
            logger.debug("the GPU does not answer any more", exc_info=True)
        self._registered.clear()

    def _forget_error(self) -> None:
        """CUDA would raise the error of a refused call again, at the next kernel."""
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device=self._device)
