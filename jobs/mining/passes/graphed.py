"""Full batches as one CUDA graph: the host launches a whole pass at once, where it would launch hundreds of kernels.

A graph replays the same kernels on the same memory. Inputs are copied into buffers that stay, short batches are padded,
and what the graph gives lies in its own memory, which the next replay writes over. After torch's notes on CUDA graphs
("CUDA semantics"): three passes on a side stream come before the capture, and nothing is read by the host within it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from cam.extract import Extraction
from cam.targets import Target, check_classes, data_of, with_data
from jobs.memory import is_out_of_memory
from jobs.mining.passes.plain import PlainPass
from jobs.phrases import one_line
from promptsg_core.cameras import Cameras, check_rows
from promptsg_core.prompts import Captions

logger = logging.getLogger(__name__)

_WARM_UP = 3  # passes before a capture, as torch's notes advise: libraries reserve memory in the first ones


class Replayed(Protocol):
    """A captured graph."""

    def replay(self) -> None:
        """Runs it on the current stream."""


Capture = Callable[[torch.device, Callable[[], Extraction]], tuple[Replayed, Extraction]]


def capture_graph(device: torch.device, work: Callable[[], Extraction]) -> tuple[Replayed, Extraction]:
    """The graph of what `work` does on a CUDA device, and the tensors that each replay fills.

    Autograd runs the way back on the streams of the forward pass, so a gradient that is taken within is captured too.
    """
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads pin memory and copy meanwhile: only this thread must keep to what a capture allows.
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        found = work()
    return graph, found


@dataclass(frozen=True)
class _Shape:
    """What must be equal for a graph to fit: everything but the numbers in the buffers."""

    images: tuple[int, ...]
    target: str
    data: tuple[tuple[int, ...], torch.dtype] | None
    cameras: str  # a word or a number is part of the graph


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """A captured pass, the buffers that it reads, and the tensors that it fills."""

    graph: Replayed
    images: Tensor
    data: Tensor | None
    cameras: Tensor | None
    found: Extraction


class GraphedPass:
    """A pass whose batches of up to `size` images are replayed from a graph.

    Where a graph cannot be captured, that is said once, and `plain` does the work from then on; it also does batches
    with captions, which differ in length. Rows are independent, so the zeros after a short batch change nothing but its
    cost. Where the memory does not suffice for a capture, that is raised as it is for a plain pass. `tried` is how many
    images the last call passed through the model, those that padded the batch included.
    """

    def __init__(self, plain: PlainPass, size: int, device: torch.device, capture: Capture = capture_graph) -> None:
        self.plain, self.size, self.device = plain, size, device
        self._capture = capture
        self._graphs: dict[_Shape, _Graph] = {}
        self._failed = False
        self.tried = 0

    def make_smaller(self, size: int) -> None:
        """From now on graphs are of `size` images. Those of the former size are dropped, and their memory with them."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self.device)  # a replay may be under way in that memory
        self._graphs.clear()
        self.size, self.tried = size, 0
        if on_gpu:
            torch.cuda.empty_cache()

    def __call__(
        self, images: Tensor, target: Target, cameras: Cameras | None = None, captions: Captions | None = None
    ) -> Extraction:
        """As of `Pass`."""
        count = self.tried = len(images)
        if self._failed or captions is not None or not 0 < count <= self.size:
            return self.plain(images, target, cameras, captions)
        shape = _shape_of(images, target, cameras)
        if shape not in self._graphs:
            whole = self.plain(images, target, cameras)  # raises what is wrong with the batch, before any capture
            if not self._try_to_capture(shape, target, cameras, images):
                return whole
        self.tried = self.size
        ready = self._graphs[shape]
        check_classes(target, self.plain.model.config.num_classes)
        if isinstance(cameras, Tensor) and cameras.device.type == "cpu":
            check_rows(cameras, self.plain.model.camera_rows)
        _fill(ready.images, images)
        _fill(ready.data, data_of(target))
        _fill(ready.cameras, cameras if isinstance(cameras, Tensor) else None)
        ready.graph.replay()
        return _first(ready.found, count)

    def _try_to_capture(self, shape: _Shape, target: Target, cameras: Cameras | None, images: Tensor) -> bool:
        try:
            self._graphs[shape] = self._captured(target, cameras, images)
        except RuntimeError as error:  # all errors of CUDA are; the plain pass has just done this batch
            if self.size > 1 and (no_memory := _out_of_memory_in(error)) is not None:
                self.tried = self.size
                raise no_memory from None  # a smaller graph may fit
            self._failed = True
            logger.warning("no CUDA graph (%s): each operator is launched on its own, which takes the host longer",
                           one_line(error))  # fmt: skip
            return False
        return True

    def _captured(self, target: Target, cameras: Cameras | None, images: Tensor) -> _Graph:
        held = self._buffer(images)
        assert held is not None
        data, rows = self._buffer(data_of(target)), self._buffer(cameras)
        goal = target if data is None else with_data(target, data)
        graph, found = self._capture(self.device, lambda: self.plain(held, goal, cameras if rows is None else rows))
        return _Graph(graph=graph, images=held, data=data, cameras=rows, found=found)

    def _buffer(self, like: object) -> Tensor | None:
        """Zeros on the device for a full batch; the same for all images stays as it is."""
        if not isinstance(like, Tensor):
            return None
        shape = (self.size, *like.shape[1:]) if like.ndim else ()
        return torch.zeros(shape, dtype=like.dtype, device=self.device)


def _out_of_memory_in(error: BaseException) -> BaseException | None:
    """What said that memory did not suffice: the error itself, or the one before it, which made the capture fail."""
    found: BaseException | None = error
    while found is not None and not is_out_of_memory(found):
        found = found.__context__
    return found


def _shape_of(images: Tensor, target: Target, cameras: Cameras | None) -> _Shape:
    data = data_of(target)
    return _Shape(
        images=tuple(images.shape[1:]),
        target=target.name,
        data=None if data is None else (tuple(data.shape[1:]), data.dtype),
        cameras=f"{cameras.dtype} {cameras.ndim}" if isinstance(cameras, Tensor) else repr(cameras),
    )


def _fill(buffer: Tensor | None, values: Tensor | None) -> None:
    """Copies the numbers of a batch into the first rows of a buffer, and zeros into the others.

    Class 0 and camera 0 are there in every model, so the rows that pad a batch have both.
    """
    if buffer is None or values is None:
        return
    if not buffer.ndim:
        buffer.copy_(values)
        return
    buffer[: len(values)].copy_(values, non_blocking=True)
    if len(values) < len(buffer):
        buffer[len(values) :].zero_()


def _first(found: Extraction, count: int) -> Extraction:
    """The first rows of each tensor: views."""
    return replace(
        found,
        maps={name: values[:count] for name, values in found.maps.items()},
        score=found.score[:count],
        predicted=found.predicted[:count],
        probability=found.probability[:count],
        features=found.features[:count],
        attention_heads=found.attention_heads[:count],
    )
