"""Results taken one batch behind, of a device that does everything as late as it may: order, errors, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cam.extract import Extraction
from jobs.errors import EXIT_DRAINED, EXIT_SOME_SHARDS_FAILED, UserError
from jobs.mining import fitting as fitting_module
from jobs.mining import worker as worker_module
from jobs.mining.batch import LaunchedBatch, MiningSetup, mine_batch
from jobs.mining.config import MineConfig
from jobs.mining.devices.device import Device
from jobs.mining.devices.host import HostDevice
from jobs.mining.devices.streamed import StreamedDevice
from jobs.mining.fitting import FittingBatches
from jobs.mining.in_order import CurrentShard, ShardsInOrder
from jobs.mining.passes.plain import Pass, plain_pass
from jobs.mining.passes.wish import CompileWish
from jobs.runs.metadata_rows import Results
from jobs.runs.shard_output import ShardOutput
from jobs.shards.columns import SampleColumns
from jobs.shards.reader import Batch, ShardEnd, ShardReader
from jobs.shards.samples import Sample
from jobs.shards.urls import Shard
from promptsg_core.model import AnyModel
from tests.support.late_copies import LateStreams
from tests.support.worker_run import IMAGES, SHARDS, Mine, StopAfter, Told, small_inputs

BATCHES = SHARDS * IMAGES // 4


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_inputs(tmp_path_factory.mktemp("worker"))


@pytest.fixture
def mine(inputs: Path, tmp_path: Path) -> Mine:
    return Mine(inputs, tmp_path / "RUN")


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> LateStreams:
    return on_device(LateStreams(), monkeypatch)


def on_device(streams: LateStreams, monkeypatch: pytest.MonkeyPatch) -> LateStreams:
    """The worker's device is the late one."""
    monkeypatch.setattr(worker_module, "device_of", lambda device: StreamedDevice(streams))
    monkeypatch.setattr(worker_module, "choose_pass", lambda model, config, _: streams.later(plain_pass(model, config)))
    return streams


def files_of(mine: Mine) -> dict[str, bytes]:
    """The bytes of the maps, which have no times in them."""
    return {path.name: path.read_bytes() for path in sorted(mine.layout.maps.iterdir())}


@pytest.fixture(scope="module")
def wanted(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the CPU alone gives."""
    alone = Mine(inputs, tmp_path_factory.mktemp("alone") / "RUN")
    alone.worker().run(alone.shards, 0)
    return files_of(alone)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_is_the_same_to_the_byte(mine: Mine, late: LateStreams, wanted: dict[str, bytes], workers: int) -> None:
    told = Told()
    summary = mine.worker(progress=told).run(mine.shards, workers)
    assert files_of(mine) == wanted and len(wanted) == SHARDS
    assert (summary.images, summary.failed_images, summary.failed_shards) == (SHARDS * IMAGES, 0, ())
    assert told.batches == [(4, True)] * BATCHES and told.sizes == [shard.size for shard in mine.shards]
    assert late.ups == [1] * BATCHES  # the images, and nothing beside them
    assert len(late.downs) == BATCHES and late.is_closed
    assert summary.seconds_model > 0


@pytest.mark.parametrize("reuse", [False, True])
def test_results_stay_as_they_are_until_a_slow_disk_has_them(
    mine: Mine, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, bytes], reuse: bool
) -> None:
    """With memory that is one and the same for all batches, which `reuse` plants, they would not."""
    on_device(LateStreams(reuse=reuse), monkeypatch)
    told, add = Told(), ShardOutput.add

    def slow(output: ShardOutput, *rest: object) -> None:
        patience = time.monotonic() + 30
        while len(told.batches) < 3 and time.monotonic() < patience:  # by then the results of two more have arrived
            time.sleep(0.01)
        add(output, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardOutput, "add", slow)
    mine.worker(progress=told).run(mine.shards, 0)
    assert (files_of(mine) == wanted) is not reuse


def test_the_readers_buffers_are_pinned_once(mine: Mine, late: LateStreams, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = torch.zeros(2, 4, 3, 64, 32, dtype=torch.uint8)
    monkeypatch.setattr(ShardReader, "ring", property(lambda reader: ring))
    mine.worker().run(mine.shards, 0)
    assert len(late.pinned) == 1 and late.pinned[0] is ring


class Ring:
    """Two slots that are filled with other pixels as soon as they are given back."""

    def __init__(self, images: torch.Tensor) -> None:
        self.slots = torch.zeros(2, 4, *images.shape[1:], dtype=torch.uint8)
        self.images = images
        self.free = [0, 1]

    def give_back(self, slot: int) -> None:
        assert slot not in self.free, "given back twice"
        self.slots[slot].fill_(255)
        self.free.append(slot)

    def batches(self, shard: Shard) -> Iterator[Batch]:
        for start in range(0, len(self.images), 4):
            assert self.free, "the worker keeps all slots"
            slot, some = self.free.pop(0), self.images[start : start + 4]
            self.slots[slot, : len(some)] = some
            samples = SampleColumns.of(Sample(key=str(n), tar_index=n) for n in range(start, start + len(some)))
            yield Batch(shard, samples, self.slots[slot, : len(some)], slot, self)


class Written:
    """In the place of a writer: what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.results: list[Results | None] = []

    def begin(self, shard: str) -> None:
        self.told.append(f"begin {shard}")

    def add(self, samples: SampleColumns, results: Results | None) -> None:
        self.told.append(f"add {len(samples)}")
        self.results.append(results)

    def end(self, error: str | None = None, *rest: object, **more: object) -> None:
        self.told.append(f"end {error}")


def in_order(mine: Mine, device: Device, run: Pass, writer: Written) -> ShardsInOrder:
    setup = MiningSetup(
        model=mine.loaded.model, run=run, config=mine.config, targets=mine.loaded.targets, cameras=mine.loaded.cameras,
        device=device,
    )  # fmt: skip
    return ShardsInOrder(FittingBatches(setup), writer)  # type: ignore[arg-type]


SHARD = Shard(name="s", url="s.tar", size=None)


@pytest.mark.parametrize("how", ["at once", "one behind"])
def test_a_slot_is_given_back_when_its_pixels_are_not_needed_any_more(mine: Mine, how: str) -> None:
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 255, (14, 3, 64, 32), np.uint8))
    ring, written, run = Ring(images), Written(), plain_pass(mine.loaded.model, mine.config)
    device: Device = HostDevice()
    if how == "one behind":
        streams = LateStreams()
        device, run = StreamedDevice(streams), streams.later(run)
    ordered = in_order(mine, device, run, written)
    current = CurrentShard(SHARD)
    for batch in ring.batches(SHARD):
        ordered.launch(current, batch)
    ordered.settle()
    assert sorted(ring.free) == [0, 1]
    assert written.told == ["begin s", "add 4", "add 4", "add 4", "add 2"]
    for start, found in zip(range(0, 14, 4), written.results, strict=True):
        samples = SampleColumns.of(Sample(key=str(n), tar_index=n) for n in range(len(images[start : start + 4])))
        alone = Batch(SHARD, samples, images[start : start + 4])
        expected = mine_batch(mine.loaded.model, alone, mine.config, mine.loaded.targets)
        assert found is not None
        for name in mine.config.maps:
            np.testing.assert_array_equal(found.maps[name], expected.maps[name])
        np.testing.assert_array_equal(found.features, expected.features)
        np.testing.assert_array_equal(found.predicted, expected.predicted)
        np.testing.assert_array_equal(found.score, expected.score)


def fails_when_taken(late: LateStreams, number: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of the batch of this number fails on the device, which is seen when its results are taken."""
    launched: list[None] = []

    def choose(model: AnyModel, config: MineConfig, _: CompileWish) -> Pass:
        run = late.later(plain_pass(model, config))

        def failing(*given: object) -> Extraction:
            found = run(*given)  # type: ignore[arg-type]
            launched.append(None)
            if len(launched) == number:
                late.launch(raises(error))
            return found

        return failing

    monkeypatch.setattr(worker_module, "choose_pass", choose)


def raises(error: Exception) -> Callable[[], object]:
    once = [error]

    def work() -> None:
        if once:
            raise once.pop()

    return work


@pytest.mark.parametrize("number", [3, 4])
def test_an_error_that_shows_late_costs_its_own_shard(
    mine: Mine, late: LateStreams, monkeypatch: pytest.MonkeyPatch, number: int, wanted: dict[str, bytes]
) -> None:
    """Of the second shard's last batch it shows when the third shard's first is launched."""
    fails_when_taken(late, number, KeyError("odd"), monkeypatch)
    summary = mine.worker().run(mine.shards, 0)
    assert mine.layout.done() == {"s-0", "s-2"} and summary.own_status == EXIT_SOME_SHARDS_FAILED
    assert [report.error for report in summary.failed_shards] == ["s-1: the model failed with KeyError: 'odd'"]
    assert files_of(mine) == {name: content for name, content in wanted.items() if not name.startswith("s-1")}


def test_an_error_of_the_gpu_that_shows_late_ends_the_run(
    mine: Mine, late: LateStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of its shard is published, though the shard's end has come."""
    fails_when_taken(late, 4, RuntimeError("CUDA error: an illegal memory access was encountered"), monkeypatch)
    with pytest.raises(RuntimeError, match="CUDA error"):
        mine.worker().run(mine.shards, 0)
    assert mine.layout.done() == {"s-0"}
    assert not list(mine.layout.root.glob("*/.*.tmp"))


def test_an_interrupt_while_results_are_taken_publishes_no_part_of_a_shard(
    mine: Mine, late: LateStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_when_taken(late, 2, KeyboardInterrupt(), monkeypatch)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        mine.worker().run(mine.shards, 0)
    assert mine.layout.done() == set()


@pytest.mark.parametrize("number", [1, 2, 6])
def test_memory_that_turns_out_too_small_late_halves_the_batches(
    mine: Mine, late: LateStreams, monkeypatch: pytest.MonkeyPatch, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    fails_when_taken(late, number, torch.OutOfMemoryError("CUDA out of memory."), monkeypatch)
    summary = mine.worker().run(mine.shards, 0)
    assert (summary.shards, summary.images, summary.failed_shards) == (SHARDS, SHARDS * IMAGES, ())
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "the memory of cpu does not suffice for 4 images at a time: going on with 2 (--batch-size 2 from the start)"
    ]


def test_an_error_of_the_users_at_launch_still_publishes_what_was_complete(
    mine: Mine, late: LateStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, count = fitting_module.launch_batch, [0]

    def failing(batch: Batch, setup: MiningSetup) -> LaunchedBatch:
        count[0] += 1
        if count[0] == 3:
            raise UserError("made up")
        return launch(batch, setup)

    monkeypatch.setattr(fitting_module, "launch_batch", failing)
    with pytest.raises(UserError, match="made up"):
        mine.worker().run(mine.shards, 0)
    assert mine.layout.done() == {"s-0"}


@pytest.mark.parametrize(("batches", "done"), [(1, {"s-0"}), (2, {"s-0"}), (3, {"s-0", "s-1"})])
def test_a_request_to_stop_finishes_what_was_launched_of_whole_shards(
    mine: Mine, late: LateStreams, batches: int, done: set[str]
) -> None:
    """The results of the last batch of a shard are on their way while the first of the next is launched."""
    told = Told()
    drain = StopAfter(told, batches, time_left=True)
    summary = mine.worker(progress=told, drain=drain).run(mine.shards, 0)
    assert (mine.layout.done(), summary.drained, summary.own_status) == (done, "SIGTERM", EXIT_DRAINED)
    assert not list(mine.layout.root.glob("*/.*.tmp")) and late.is_closed


def test_without_time_the_current_shard_is_dropped_and_the_one_before_is_not(mine: Mine, late: LateStreams) -> None:
    told = Told()
    mine.worker(progress=told, drain=StopAfter(told, 2, time_left=False)).run(mine.shards, 0)
    assert mine.layout.done() == {"s-0"} and told.batches == [(4, True)] * 2


def test_a_shard_that_is_complete_is_published_while_the_reader_waits_for_the_next(
    mine: Mine, late: LateStreams
) -> None:
    """A read may hang for hours."""
    seen: list[set[str]] = []

    def hanging() -> Iterator[Shard]:
        yield mine.shards[0]
        patience = time.monotonic() + 30
        while not mine.layout.done() and time.monotonic() < patience:
            time.sleep(0.01)
        seen.append(mine.layout.done())

    mine.worker().run(hanging(), 0)
    assert seen == [{"s-0"}]


def test_a_batch_without_images_and_a_shard_without_samples_keep_their_place(mine: Mine) -> None:
    """Whatever comes after a launched batch waits for it."""
    streams, written = LateStreams(), Written()
    ordered = in_order(
        mine, StreamedDevice(streams), streams.later(plain_pass(mine.loaded.model, mine.config)), written
    )
    images = torch.zeros(4, 3, 64, 32, dtype=torch.uint8)
    first, second = CurrentShard(SHARD), CurrentShard(Shard(name="t", url="t.tar", size=None))
    ordered.launch(first, Batch(SHARD, SampleColumns.of(Sample(key=str(n), tar_index=n) for n in range(4)), images))
    failed = Sample(key="4", tar_index=4)
    failed.fail("image_corrupt", "made up")
    ordered.launch(first, Batch(SHARD, SampleColumns.of([failed]), images[:0]))
    ordered.end(first, ShardEnd(SHARD, None, 0.0, 0))
    ordered.end(second, ShardEnd(second.shard, None, 0.0, 0))
    assert written.told == []
    ordered.finish_shards()
    assert [told.split(":")[0] for told in written.told] == ["begin s", "add 4", "add 1", "end s", "begin t", "end t"]
    assert written.results[1] is None
