"""Batches and ends of shards on their way over the device to the writer: in order, with their errors."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field

from cam.errors import CamError
from jobs.errors import UserError
from jobs.mining.fitting import FittingBatches, LaunchedParts
from jobs.phrases import one_line
from jobs.progress import ShardProgress
from jobs.runs.metadata_rows import Results
from jobs.runs.writer import Writer
from jobs.shards.columns import SampleColumns
from jobs.shards.reader import Batch, ShardEnd
from jobs.shards.urls import Shard
from promptsg_core.errors import ModelError

logger = logging.getLogger(__name__)

_ACCELERATORS = ("CUDA", "cuDNN", "CUBLAS", "HIP", "MPS")  # as their errors say


@dataclass
class CurrentShard:
    """A shard that is being mined: the byte of its tar up to which results are there, and the seconds of the model.

    The seconds are those in which the worker launched its batches and waited for their results; where the device works
    beside the worker, it takes longer. With an `error` the shard has failed, and its other batches are passed over.
    """

    shard: Shard
    began: float = field(default_factory=time.monotonic)
    position: int = 0
    seconds_model: float = 0.0
    error: str | None = None
    is_open: bool = False  # the writer knows of it

    def advance(self, samples: SampleColumns) -> None:
        """Moves the position to the last image of a batch. In a compressed tar it stays 0."""
        self.position = max([self.position, *(offset or 0 for offset in samples.image_offset)])

    def seconds_left(self) -> float | None:
        """The time that the rest will take at the speed so far; None where it cannot be estimated."""
        if not self.shard.size or not self.position:
            return None
        return (time.monotonic() - self.began) * max(0.0, self.shard.size / self.position - 1)

    def fail(self, error: Exception) -> None:
        """Notes that the model has failed on it. Raises the error again where it concerns more than the shard."""
        if _ends_the_run(error):
            raise error
        logger.debug("%s: the model failed", self.shard.name, exc_info=True)
        self.error = f"{self.shard.name}: the model failed with {type(error).__name__}: {one_line(error)}"


@dataclass(frozen=True)
class _Waiting:
    """What the writer has not been told yet. A batch without `launched` has no image, or its shard has failed."""

    current: CurrentShard
    item: Batch | ShardEnd
    launched: LaunchedParts | None = None


class ShardsInOrder:
    """Launches batches, and hands their results to the writer once so many younger batches are launched.

    While the device works on the last batches, the results of the one before are taken.
    """

    def __init__(self, batches: FittingBatches, writer: Writer, progress: ShardProgress | None = None) -> None:
        self._batches, self._writer, self._progress = batches, writer, progress
        self._waiting: deque[_Waiting] = deque()
        self._behind = batches.setup.device.behind

    def launch(self, current: CurrentShard, batch: Batch) -> None:
        """Gives the device a batch to work on. Raises what ends the run; another error is the shard's."""
        launched = None
        if current.error is None and len(batch.images):
            started = time.perf_counter()
            try:
                launched = self._batches.launch(batch)
            except Exception as error:  # noqa: BLE001 - see CurrentShard.fail
                current.fail(error)
            current.seconds_model += time.perf_counter() - started
        else:
            batch.release()
        self._waiting.append(_Waiting(current, batch, launched))
        self.settle(self._behind)

    def end(self, current: CurrentShard, end: ShardEnd) -> None:
        """The shard has no more batches."""
        self._waiting.append(_Waiting(current, end))
        self.settle(self._behind)

    def settle(self, behind: int = 0) -> None:
        """Hands over, in order, all but the last `behind` launched batches and what comes after them.

        Raises what ends the run; another error of a batch is its shard's.
        """
        while self._waiting and (self._waiting[0].launched is None or self._launched() > behind):
            self._next()
        for waiting in self._waiting:
            if waiting.launched is not None:
                waiting.launched.return_if_copied()

    def finish_shards(self) -> None:
        """Hands over what belongs to shards whose end has come. The rest, of a shard that is dropped, is given up."""
        while any(isinstance(waiting.item, ShardEnd) for waiting in self._waiting):
            self._next()
        self._waiting.clear()

    def _launched(self) -> int:
        return sum(waiting.launched is not None for waiting in self._waiting)

    def _next(self) -> None:
        try:
            self._hand_over(self._waiting[0])
            self._waiting.popleft()
        except BaseException:  # an interrupt too: its shard must not end without this batch
            self._waiting.clear()
            raise

    def _hand_over(self, waiting: _Waiting) -> None:
        current = waiting.current
        if not current.is_open:
            self._writer.begin(current.shard.name)
            current.is_open = True
        if isinstance(waiting.item, ShardEnd):
            self._end(current, waiting.item)
            return
        results = self._results_of(current, waiting.launched)
        if current.error is None:
            self._writer.add(waiting.item.samples, results)
        current.advance(waiting.item.samples)
        if self._progress is not None:
            self._progress.advance(len(waiting.item.samples), current.position or None)

    def _results_of(self, current: CurrentShard, launched: LaunchedParts | None) -> Results | None:
        """Waits for the results of a batch; None for one without images, and for one whose shard has failed."""
        if launched is None:
            return None
        started = time.perf_counter()
        try:
            return self._batches.take(launched)
        except Exception as error:  # noqa: BLE001 - see CurrentShard.fail
            current.fail(error)
            return None
        finally:
            current.seconds_model += time.perf_counter() - started

    def _end(self, current: CurrentShard, end: ShardEnd) -> None:
        error = current.error or _without_images(end) if end.error is None else str(end.error)
        self._writer.end(
            error,
            seconds_reading=end.seconds,
            seconds_model=current.seconds_model,
            tar=end.whole,
            passed_over=end.contents.passed_over,
            only_first=end.only_first,
        )
        if self._progress is not None:
            self._progress.finish_shard(end.shard.size)


def _without_images(end: ShardEnd) -> str | None:
    """The error of a shard that was read to its end and holds no image; None for any other."""
    if end.contents.images:
        return None
    held = end.contents.held_instead() or "the tar is empty"
    return f"{end.shard.name}: no image in it: {held}; leave {end.shard.url} out of --shards, or pack it again"


def _ends_the_run(error: Exception) -> bool:
    """Whether an error of the model concerns more than the shard: after an error of the GPU nothing works any more."""
    if isinstance(error, (UserError, ModelError, CamError)):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in _ACCELERATORS)
