"""What CUDA is asked for, in which order and on which stream: a stand-in for torch.cuda writes it down."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from jobs.mining.devices.choose import device_of
from jobs.mining.devices.cuda_streams import CudaStreams
from jobs.mining.devices.streamed import StreamedDevice

GPU = torch.device("cuda:0")


class Cuda:
    """torch.cuda's streams and events, and the driver. `told` is what they were asked for, with the current stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.current = Stream(self, "arithmetic")
        self.refuses = 0
        self.broken = False
        names = iter(("upward", "downward"))
        events = iter(range(100))
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(self, next(names)))
        monkeypatch.setattr(torch.cuda, "Event", lambda **options: Event(self, next(events)))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self.within)
        monkeypatch.setattr(torch.cuda, "cudart", lambda: self)

    @contextlib.contextmanager
    def within(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def note(self, what: str) -> None:
        self.told.append(f"{self.current.name}: {what}")

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        self.told.append(f"pin {size}")
        return self.refuses

    def cudaHostUnregister(self, address: int) -> int:
        self.told.append("unpin")
        return 0


class Stream:
    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_event(self, event: Event) -> None:
        self.cuda.told.append(f"{self.name} waits for event {event.number}")

    def wait_stream(self, other: Stream) -> None:
        self.cuda.told.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        if self.cuda.broken:
            raise RuntimeError("CUDA error: unspecified launch failure")
        self.cuda.told.append(f"the host waits for {self.name}")


class Event:
    def __init__(self, cuda: Cuda, number: int) -> None:
        self.cuda, self.number = cuda, number

    def record(self, stream: Stream) -> None:
        self.cuda.told.append(f"event {self.number} on {stream.name}")

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        self.cuda.told.append(f"the host waits for event {self.number}")


class Numbers:
    """A tensor that notes where it is copied."""

    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def to(self, device: torch.device, *, non_blocking: bool) -> Numbers:
        assert device == GPU and non_blocking
        self.cuda.note(f"copy {self.name}")
        return Numbers(self.cuda, f"{self.name} there")

    def copy_(self, source: Numbers, *, non_blocking: bool) -> None:
        assert non_blocking
        self.cuda.note(f"copy {source.name} to {self.name}")

    def record_stream(self, stream: Stream) -> None:
        self.cuda.told.append(f"{self.name} is used on {stream.name}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def numbers(cuda: Cuda, *names: str) -> Any:
    return [Numbers(cuda, name) for name in names]


def test_a_gpu_gets_streams(cuda: Cuda) -> None:
    device = device_of(GPU)
    assert isinstance(device, StreamedDevice) and device.behind == 1


def test_the_arithmetic_waits_for_what_is_copied_up_and_its_memory_is_kept_for_it(cuda: Cuda) -> None:
    copies, mark = CudaStreams(GPU).up(numbers(cuda, "images", "constants"))
    assert cuda.told == [
        "upward: copy images",
        "upward: copy constants",
        "event 0 on upward",
        "arithmetic waits for event 0",
        "images there is used on arithmetic",
        "constants there is used on arithmetic",
    ]
    assert len(copies) == 2 and not mark.passed()
    mark.wait()
    assert cuda.told[-1] == "the host waits for event 0"


def test_results_are_copied_beside_the_arithmetic_once_they_are_there(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cat(sources: list[Numbers]) -> Numbers:
        cuda.note(f"pack {' and '.join(source.name for source in sources)}")
        return Numbers(cuda, "packed")

    monkeypatch.setattr(torch, "cat", cat)
    (target,) = numbers(cuda, "words")
    CudaStreams(GPU).down(numbers(cuda, "maps", "score"), target).wait()
    assert cuda.told == [
        "arithmetic: pack maps and score",
        "downward waits for arithmetic",
        "downward: copy packed to words",
        "event 0 on downward",
        "packed is used on downward",
        "the host waits for event 0",
    ]


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: False)
    return torch.zeros(3, 2, 5, dtype=torch.uint8)


def test_memory_is_pinned_once_and_given_back_after_all_copies(cuda: Cuda, ring: torch.Tensor) -> None:
    streams = CudaStreams(GPU)
    streams.pin(ring)
    streams.pin(ring[:0])  # CUDA refuses to pin nothing
    streams.close()
    assert cuda.told == ["pin 30", "the host waits for upward", "the host waits for downward", "unpin"]


def test_memory_that_cannot_be_pinned_is_said_and_is_no_error_of_what_comes_next(
    cuda: Cuda, ring: torch.Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    launched: list[torch.device] = []

    def zeros(count: int, device: torch.device) -> None:
        launched.append(device)
        raise RuntimeError("CUDA error: out of memory")  # as CUDA does: the refused call's error, once more

    monkeypatch.setattr(torch, "zeros", zeros)
    cuda.refuses = 2
    streams = CudaStreams(GPU)
    with caplog.at_level(logging.WARNING):
        streams.pin(ring)
    assert launched == [GPU] and "could not be pinned (CUDA error 2" in caplog.text
    streams.close()
    assert "unpin" not in cuda.told


def test_a_gpu_that_has_failed_can_be_left(cuda: Cuda, ring: torch.Tensor) -> None:
    streams = CudaStreams(GPU)
    streams.pin(ring)
    cuda.broken = True
    streams.close()
    assert cuda.told == ["pin 30"]
