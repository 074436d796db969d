"""A device whose work is done as late as it may be: memory that is used again too early gives wrong numbers.

The CPU stands for the device. What is launched waits in a queue until somebody waits for a mark behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cam.extract import Extraction
from cam.targets import Target
from jobs.mining.passes.plain import Pass
from promptsg_core.cameras import Cameras
from promptsg_core.prompts import Captions


@dataclass(frozen=True)
class _LateMark:
    streams: LateStreams
    place: int

    def passed(self) -> bool:
        """Whether the work before it is done."""
        return self.streams.done >= self.place

    def wait(self) -> None:
        """Does the work before it."""
        self.streams.work_until(self.place)


class LateStreams:
    """Copies and arithmetic in the order of their launch, none before it must be done.

    With `reuse` the memory for results is one and the same each time: a fault that tests must see. `ups` and `downs`
    are the copies, with the number of tensors of each. `error` is raised by the work that comes next.
    """

    def __init__(self, *, reuse: bool = False) -> None:
        self.done = 0
        self.error: BaseException | None = None
        self.ups: list[int] = []
        self.downs: list[int] = []
        self.pinned: list[Tensor] = []
        self.is_closed = False
        self._reuse = reuse
        self._memory: dict[int, Tensor] = {}
        self._queue: list[Callable[[], object]] = []

    def launch(self, work: Callable[[], object]) -> _LateMark:
        """Work of the device."""
        self._queue.append(work)
        return _LateMark(self, len(self._queue))

    def work_until(self, place: int) -> None:
        """Does what was launched up to a place in the queue."""
        while self.done < place:
            if self.error is not None:
                error, self.error = self.error, None
                raise error
            self._queue[self.done]()
            self._queue[self.done] = lambda: None  # lets go of its tensors
            self.done += 1

    def pin(self, memory: Tensor) -> None:
        """Notes it."""
        self.pinned.append(memory)

    def host_memory(self, count: int) -> Tensor:
        """Memory with other numbers in it."""
        if not self._reuse:
            return torch.full((count,), 0x5A5A5A5A, dtype=torch.int32)
        return self._memory.setdefault(count, torch.full((count,), 0x5A5A5A5A, dtype=torch.int32))

    def up(self, sources: Sequence[Tensor]) -> tuple[list[Tensor], _LateMark]:
        """The sources are read when the copies are done."""
        copies = [torch.full_like(source, 85) for source in sources]
        self.ups.append(len(copies))
        marks = [self.launch(lambda s=s, c=c: c.copy_(s)) for s, c in zip(sources, copies, strict=True)]  # type: ignore[misc]
        return copies, marks[-1]

    def down(self, sources: Sequence[Tensor], target: Tensor) -> _LateMark:
        """The target is written when the copy is done."""
        self.downs.append(len(sources))
        return self.launch(lambda: torch.cat(list(sources), out=target))

    def close(self) -> None:
        """Does what is left."""
        if self.error is None:
            self.work_until(len(self._queue))
        self.is_closed = True

    def later(self, run: Pass) -> Pass:
        """A pass that is launched: its results are there once its work is done."""

        def launched(
            images: Tensor, target: Target, cameras: Cameras | None = None, captions: Captions | None = None
        ) -> Extraction:
            found = run(images, target, cameras, captions)  # of other images: for the shapes
            results = [found.score, found.predicted, found.probability, found.features, found.attention_heads]
            results += found.maps.values()
            for result in results:
                result.fill_(3)

            def work() -> None:
                real = run(images, target, cameras, captions)
                numbers = [real.score, real.predicted, real.probability, real.features, real.attention_heads]
                for result, values in zip(results, [*numbers, *real.maps.values()], strict=True):
                    result.copy_(values)

            self.launch(work)
            return found

        return launched
