"""Which shards a worker draws, and what it does when it is requested to stop."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.errors import EXIT_DRAINED, EXIT_OK, EXIT_SOME_SHARDS_FAILED
from jobs.launch import drain as drain_module
from jobs.launch.drain import Drain
from jobs.mining import fitting
from jobs.mining.batch import LaunchedBatch, MiningSetup, launch_batch
from jobs.mining.pending import PendingShards
from jobs.mining.summary import MiningSummary
from jobs.runs.events import ShardReport
from jobs.runs.layout import RunLayout
from jobs.runs.shard_output import ShardOutput
from jobs.shards.reader import Batch
from jobs.shards.urls import Shard
from tests.support.made_runs import made_manifest, made_samples, made_shard
from tests.support.worker_run import IMAGES, SHARDS, Mine, StopAfter, Told, small_inputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_inputs(tmp_path_factory.mktemp("worker"))


@pytest.fixture
def mine(inputs: Path, tmp_path: Path) -> Mine:
    return Mine(inputs, tmp_path / "RUN")


def test_a_worker_needs_neither_progress_nor_drain(mine: Mine) -> None:
    summary = mine.worker().run(mine.shards, 0)
    assert (summary.shards, summary.images, summary.drained) == (SHARDS, SHARDS * IMAGES, None)
    assert (summary.failed_shards, summary.own_status) == ((), EXIT_OK)
    assert summary.seconds_model > 0 and summary.run == mine.config.output
    assert mine.layout.done() == {"s-0", "s-1", "s-2"}


def test_progress_is_told_of_each_batch_and_each_shard(mine: Mine) -> None:
    told = Told()
    mine.worker(progress=told).run(mine.shards, 0)
    assert told.batches == [(4, True)] * 6
    assert told.sizes == [shard.size for shard in mine.shards]


@pytest.mark.parametrize(("time_left", "done"), [(True, {"s-0"}), (False, set())])
def test_the_current_shard_is_finished_only_if_there_is_time(mine: Mine, time_left: bool, done: set[str]) -> None:
    told = Told()
    drain = StopAfter(told, 1, time_left=time_left)
    summary = mine.worker(progress=told, drain=drain).run(mine.shards, 0)
    assert mine.layout.done() == done
    assert (summary.drained, summary.own_status, summary.shards) == ("SIGTERM", EXIT_DRAINED, len(done))
    # Half of the images are mined, and the estimate is of the rest.
    assert all(seconds is not None and seconds > 0 for seconds in drain.asked[:1])
    assert not list(mine.layout.root.glob("*/.*.tmp"))


def test_a_request_between_two_shards_stops_before_the_next(mine: Mine) -> None:
    told = Told()
    summary = mine.worker(progress=told, drain=StopAfter(told, 2, time_left=True)).run(mine.shards, 0)
    assert mine.layout.done() == {"s-0"} and summary.drained == "SIGTERM"


@pytest.mark.parametrize(("error", "ends"), [(KeyError("odd"), False), (RuntimeError("CUDA error: illegal"), True)])
def test_a_model_that_fails_on_a_shard_costs_that_shard(
    mine: Mine, monkeypatch: pytest.MonkeyPatch, error: Exception, ends: bool
) -> None:
    """Unless the GPU has failed: then nothing works any more."""
    seen: list[str] = []

    def launch(batch: Batch, setup: MiningSetup) -> LaunchedBatch:
        seen.append(batch.shard.name)
        if batch.shard.name == "s-1":
            raise error
        return launch_batch(batch, setup)

    monkeypatch.setattr(fitting, "launch_batch", launch)
    if ends:
        with pytest.raises(RuntimeError, match="CUDA error"):
            mine.worker().run(mine.shards, 0)
        return
    summary = mine.worker().run(mine.shards, 0)
    assert mine.layout.done() == {"s-0", "s-2"} and summary.own_status == EXIT_SOME_SHARDS_FAILED
    assert [report.error for report in summary.failed_shards] == ["s-1: the model failed with KeyError: 'odd'"]
    assert seen == ["s-0", "s-0", "s-1", "s-2", "s-2"]  # the rest of a failed shard is passed over


def test_a_shard_that_cannot_be_written_for_any_reason_fails_alone(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    add = ShardOutput.add

    def broken(output: ShardOutput, *rest: object) -> None:
        if output.shard == "s-1":
            raise IndexError("odd")
        add(output, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardOutput, "add", broken)
    summary = mine.worker().run(mine.shards, 0)
    assert mine.layout.done() == {"s-0", "s-2"}
    assert [report.error for report in summary.failed_shards] == ["s-1: it cannot be written: IndexError: odd"]


def test_decoding_processes_that_a_signal_to_all_has_ended_are_no_error(mine: Mine) -> None:
    """Slurm sends SIGTERM to every process of a step."""
    told = Told()

    class Killing(StopAfter):
        @property
        def requested(self) -> str | None:
            asked = super().requested
            if asked and not self.asked:
                for child in multiprocessing.active_children():
                    child.kill()
                    child.join()
            return asked

    drain = Killing(told, 1, time_left=True)
    summary = mine.worker(progress=told, drain=drain).run(itertools.cycle(mine.shards[:1]), 1)
    assert (summary.drained, summary.own_status) == ("SIGTERM", EXIT_DRAINED)


def test_a_stopped_decoding_process_does_not_defeat_sigterm(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real SIGSTOP and a real SIGTERM: after the grace the worker ends, and what it was mining is dropped."""
    monkeypatch.setitem(drain_module._GRACE_SECONDS, "SIGTERM", 1.0)

    class StopDecoders(Told):
        def advance(self, images: int, position: int | None) -> None:
            super().advance(images, position)
            if len(self.batches) == 1:
                for child in multiprocessing.active_children():
                    os.kill(child.pid or 0, signal.SIGSTOP)
                os.kill(os.getpid(), signal.SIGTERM)

    with Drain() as drain:
        started = time.monotonic()
        summary = mine.worker(progress=StopDecoders(), drain=drain).run(itertools.cycle(mine.shards[:1]), 1)
    assert (summary.drained, summary.own_status) == ("SIGTERM", EXIT_DRAINED)
    assert not list(mine.layout.root.glob("*/.*.tmp")) and time.monotonic() - started < 25


def test_the_summary_adds_up_reports() -> None:
    good = ShardReport(shard="a", images=7, failed={"x": 1, "y": 2}, partial={"z": 4}, zero_maps={"m": 5, "n": 6},
                       seconds_model=1.5)  # fmt: skip
    bad = ShardReport(shard="b", error="broken", seconds_model=0.5)
    empty = MiningSummary(run=Path("RUN"))
    found = empty.plus(good).plus(bad).plus(good)
    assert (found.shards, found.images, found.failed_images, found.partial_images, found.zero_maps) == (2, 14, 6, 8, 22)
    assert (found.failed_shards, found.seconds_model) == ((bad,), 3.5)
    assert (empty.own_status, found.own_status) == (EXIT_OK, EXIT_SOME_SHARDS_FAILED)
    assert empty.images == 0  # a summary does not change


class Counter:
    """Counts as one rank alone does, or takes the numbers that others leave."""

    def __init__(self, step: int = 1) -> None:
        self._numbers: Iterator[int] = itertools.count(0, step)

    def next(self) -> int:
        return next(self._numbers)

    def count(self, name: str) -> int:
        return 1


@pytest.fixture
def half_done(tmp_path: Path) -> PendingShards:
    """Five shards, of which b and d are done, and d has a failed image."""
    names = ["a", "b", "c", "d", "e"]
    manifest = made_manifest(tmp_path / "RUN", names)
    made_shard(tmp_path / "RUN", manifest, "b", made_samples(4))
    made_shard(tmp_path / "RUN", manifest, "d", made_samples(8))  # the sixth has failed
    return PendingShards([Shard(name=name, url="", size=None) for name in names], RunLayout(tmp_path / "RUN"))


def names_of(shards: list[Shard]) -> list[str]:
    return [shard.name for shard in shards]


def test_what_is_done_is_not_pending(half_done: PendingShards) -> None:
    assert names_of(half_done.listed()) == ["a", "c", "e"]
    assert names_of(list(half_done.drawn(Counter()))) == ["a", "c", "e"]
    assert names_of(list(half_done.drawn(Counter(2)))) == ["a", "c", "e"]  # another rank draws b and d


def test_only_what_was_not_done_is_looked_up(half_done: PendingShards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10,000 shards nearly all may be done, and each look is a request to a file server."""
    looked = []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: looked.append(path.stem) or is_file(path))
    assert names_of(half_done.listed()) == ["a", "c", "e"] and looked == []
    assert names_of(list(half_done.drawn(Counter()))) == ["a", "c", "e"] == looked


def test_failed_images_are_retried_on_request(half_done: PendingShards) -> None:
    retried = PendingShards(half_done.block, half_done.layout, retry_failed=True)
    assert names_of(retried.listed()) == ["a", "c", "d", "e"]
    assert names_of(list(retried.drawn(Counter()))) == ["a", "c", "d", "e"]


def test_a_shard_is_looked_up_when_it_is_drawn(half_done: PendingShards) -> None:
    drawn = half_done.drawn(Counter())
    assert next(drawn).name == "a"
    half_done.layout.shard_metadata("c").touch()  # another worker was faster
    assert names_of(list(drawn)) == ["e"]


def test_a_folder_with_the_name_of_the_metadata_is_not_a_shard_that_is_done(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "RUN")
    layout.shard_metadata("s").mkdir(parents=True)
    assert PendingShards([], layout).is_pending(Shard(name="s", url="", size=None))
