"""Images whose numbers fp16 cannot hold are done again in float32: the same rows, counted, and told."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from cam.measures import measure_stack
from jobs.commands.mine import describe
from jobs.mining.batch import mine_batch
from jobs.mining.config import MineConfig, build_config
from jobs.mining.limits.fp32_repeats import Fp32Repeats, rows_not_finite
from jobs.mining.mine import mine
from jobs.mining.model import LoadedModel, load
from jobs.runs.events import read_events
from jobs.runs.footer import read_facts, read_footer
from jobs.runs.layout import RunLayout
from jobs.runs.maps_file import HEADS
from jobs.runs.metadata_rows import Results
from jobs.runs.run import open_run
from jobs.runs.status import status
from jobs.shards.columns import SampleColumns
from jobs.shards.reader import Batch
from jobs.shards.samples import KEPT, NO_LABEL, NOT_FINITE, OK, Sample
from jobs.shards.urls import Shard
from tests.support.made_runs import made_manifest
from tests.support.shard_files import sample_members, write_tar
from tests.support.tiny import random_images, tiny_state

SHARD = Shard(name="s", url="s.tar", size=None)
PIDS = [1, 2, 3, 99, 5, 6, 99]  # 99 has no class
WHITE = [1, 3, 5]  # the images that overflow
MAPS = ("mim_attention", "gradcam/mim", "hirescam/vit_proj")


def overflowing(path: Path, weight: float) -> None:
    """A checkpoint whose patch embedding sums the pixels of a patch, times `weight`, into one channel.

    A patch has 48 values, which are 1 in a white image and below 0.3 in a grey one.
    """
    _, state = tiny_state(image_size=(64, 32))
    state["image_encoder.conv1.weight"][7] = weight
    torch.save(state, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("again")
    overflowing(folder / "m.pth", 2000.0)  # white reaches 96,000, and fp16 ends at 65,504
    overflowing(folder / "worse.pth", 1e37)  # a weight beyond fp16, and white is beyond float32 too
    (folder / "labels.json").write_text('{"1": 0, "2": 1, "3": 2, "5": 3, "6": 4}')
    return folder


def configured(folder: Path, precision: str, **changes: object) -> MineConfig:
    values: dict[str, object] = {
        "shards": ("s.tar",), "checkpoint": folder / "m.pth", "output": folder / "RUN", "maps": MAPS,
        "target": "label", "label_map": folder / "labels.json", "attention_heads": "all", "device": "cpu",
        "precision": precision, **changes,
    }  # fmt: skip
    return MineConfig.model_validate(values)


def a_batch(loaded: LoadedModel) -> Batch:
    """Seven images, three of them white, and a sample in between that has none."""
    samples = [Sample(key=str(number), tar_index=number, pid=pid) for number, pid in enumerate(PIDS)]
    failed = Sample(key="failed", tar_index=7)
    failed.fail("image_corrupt", "made up")
    images = 96 + random_images(loaded.model.config, len(PIDS)) // 4
    images[WHITE] = 255
    return Batch(SHARD, SampleColumns.of([*samples[:2], failed, *samples[2:]]), images)


def arrays(results: Results) -> dict[str, np.ndarray]:
    named = {"features": results.features, "score": results.score, "predicted": results.predicted}
    return {**results.maps, **results.stored, **named, "probability": results.probability}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("jobs.mining.limits")]


def mined_low(folder: Path, **changes: object) -> tuple[LoadedModel, MineConfig, Batch, Results]:
    config = configured(folder, "fp16", **changes)
    loaded = load(config, (), ())
    batch = a_batch(loaded)
    return loaded, config, batch, mine_batch(loaded.model, batch, config, loaded.targets)


def test_just_the_rows_that_are_not_finite_are_those_of_float32(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    exact = load(configured(folder, "fp32"), (), ())
    wanted_batch = a_batch(exact)
    wanted = mine_batch(exact.model, wanted_batch, configured(folder, "fp32"), exact.targets)
    loaded, _, batch, low = mined_low(folder)
    before = {name: values.copy() for name, values in arrays(low).items()}
    again = Fp32Repeats(loaded.source, loaded.targets)
    with caplog.at_level(logging.INFO, "jobs.mining"):
        found = again.corrected(batch, low)
        statuses = [(s.status, s.error) for s in batch.samples]
        assert found.done_again == 3 and again.corrected(batch, found) is found  # nothing is left to do
    assert (again.done, again.seen) == (3, 14)
    assert [message.partition(":")[0] for message in told(caplog)] == ["numbers of an image are not finite"]
    # Also of the white image without a target: it has features and an attention map.
    assert statuses == [(s.status, s.error) for s in wanted_batch.samples]
    assert [status for status, _ in statuses] == [OK, OK, "image_corrupt", OK, NO_LABEL, OK, OK, NO_LABEL]
    others = np.delete(np.arange(len(PIDS)), WHITE)
    assert HEADS in found.stored
    for name, values in arrays(found).items():
        assert np.array_equal(values[others], before[name][others], equal_nan=True), name
        np.testing.assert_allclose(values[WHITE], arrays(wanted)[name][WHITE], rtol=1e-4, atol=1e-6, err_msg=name)
        if name not in ("predicted", "gradcam/mim", "hirescam/vit_proj", "score"):
            assert not np.isfinite(before[name][WHITE]).all() and np.isfinite(values).all(), name


def test_what_counts_as_not_finite() -> None:
    rows = 8
    fine = Results(
        maps={"mim_attention": np.ones((rows, 2, 2), np.float32), "gradcam/mim": np.ones((rows, 2, 2), np.float32)},
        features=np.full((rows, 3), 3e38, np.float32),  # their sum overflows
        score=np.zeros(rows, np.float32), predicted=np.zeros(rows, np.int64),
        probability=np.ones(rows, np.float32), stored={HEADS: np.ones((rows, 2, 2, 2), np.float32)},
    )  # fmt: skip
    samples = SampleColumns.of(Sample(key=str(n), tar_index=n) for n in range(rows))
    assert rows_not_finite(samples, fine).tolist() == []
    samples.mark(0, NO_LABEL, None)
    fine.maps["gradcam/mim"][0] = fine.score[0] = np.nan  # has no target
    fine.predicted[1], fine.probability[1] = -1, np.nan  # has no class
    assert rows_not_finite(samples, fine).tolist() == []
    fine.maps["mim_attention"][0, 1, 1] = np.nan
    fine.maps["gradcam/mim"][2, 0, 1] = np.inf
    fine.features[3, 2] = -np.inf
    fine.score[4] = np.inf
    fine.probability[5] = np.nan
    fine.stored[HEADS][6, 1, 0, 0] = np.nan
    assert rows_not_finite(samples, fine).tolist() == [0, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("problem", ["changed", "gone", "memory"])
def test_without_the_model_in_float32_such_rows_stay(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: str
) -> None:
    overflowing(tmp_path / "m.pth", 2000.0)
    loaded, _, batch, low = mined_low(folder, checkpoint=tmp_path / "m.pth")
    if problem == "gone":
        (tmp_path / "m.pth").unlink()
    if problem == "memory":
        monkeypatch.setattr("jobs.mining.limits.model_source.load_with_prompts", _no_memory)
    manifest = made_manifest(tmp_path / "RUN", ["s"], MAPS)
    if problem == "changed":
        asked = manifest.asked.model_copy(update={"checkpoint_sha256": "0" * 64})
        manifest = manifest.model_copy(update={"asked": asked})
    again = Fp32Repeats(loaded.source, loaded.targets, manifest=manifest)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert again.corrected(batch, low).done_again == again.done == 0
    assert rows_not_finite(batch.samples.select(batch.samples.rows_with(KEPT)), low).tolist() == WHITE
    reason = {"changed": "is another file than when the run", "gone": "does not exist", "memory": "out of memory"}[
        problem
    ]
    (message,) = told(caplog)
    assert reason in message and "fail, since they cannot be done again in fp32" in message


def _no_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class _FullImages(torch.Tensor):
    """Pixels on a GPU that has no room for a copy of some."""

    def __getitem__(self, rows: object) -> torch.Tensor:
        _no_memory()
        raise AssertionError


def test_no_memory_for_the_pixels_is_no_end_of_a_run(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded, _, batch, low = mined_low(folder)
    again = Fp32Repeats(loaded.source, loaded.targets)
    full = replace(batch, images=batch.images.as_subclass(_FullImages))  # type: ignore[no-untyped-call]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert again.corrected(full, low).done_again == again.done == 0
    (message,) = told(caplog)
    assert "fail, since they cannot be done again in fp32: CUDA out of memory" in message


def test_measures_that_were_taken_already_follow_their_maps(folder: Path, tmp_path: Path) -> None:
    loaded, _, batch, low = mined_low(folder)
    low = replace(low, measures=measure_stack(np.stack([low.maps[name] for name in MAPS])))
    manifest = made_manifest(tmp_path / "RUN", ["s"], MAPS)
    found = Fp32Repeats(loaded.source, loaded.targets, manifest=manifest).corrected(batch, low)
    wanted = measure_stack(np.stack([found.maps[name] for name in MAPS]), manifest.measured_placement)
    assert found.done_again == 3 and np.array_equal(found.measures, wanted, equal_nan=True)
    assert np.isfinite(wanted[0, :, WHITE]).all()  # those of the attention; one of the three has no target


def test_a_model_that_overflows_often_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded, _, batch, low = mined_low(folder)
    again = Fp32Repeats(loaded.source, loaded.targets)
    again.seen, again.done = 2000, 200
    again.corrected(batch, low)
    assert told(caplog)[-1:] == [
        "203 of 2007 images so far were done again in fp32: with --precision fp32 or bf16, into another --output, this "
        "model mines faster"
    ]


def shard_of_grey_and_white(path: Path, count: int, white: int) -> None:
    members = []
    for number in range(count):
        colour = 255 if number < white else 110 + number
        out = io.BytesIO()
        Image.new("RGB", (16, 32), (colour, colour, colour)).save(out, "JPEG", quality=95)
        members += sample_members(f"{number:04d}_c1s1_000000_00", out.getvalue(), pid=number)
    write_tar(path, members)


def test_a_run_counts_them_and_says_so(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard_of_grey_and_white(tmp_path / "a.tar", 9, white=3)
    shard_of_grey_and_white(tmp_path / "b.tar", 4, white=0)
    summaries = {}
    for precision in ("fp32", "fp16"):
        values = {"shards": str(tmp_path / "*.tar"), "checkpoint": folder / "m.pth", "output": tmp_path / precision,
                  "maps": MAPS, "device": "cpu", "precision": precision, "workers": 0, "batch_size": 4}  # fmt: skip
        with caplog.at_level(logging.INFO):
            summaries[precision] = mine(build_config(None, values))
    assert [summaries[p].done_again for p in ("fp32", "fp16")] == [0, 3]
    assert "\n3 images done again in fp32: numbers were not finite before" in describe(summaries["fp16"])
    assert "again" not in describe(summaries["fp32"])
    assert "a: 9 images (3 images done again in fp32); 1 of 2 shards; reading" in caplog.text
    assert "b: 4 images; 2 of 2 shards; reading" in caplog.text
    layout = RunLayout(tmp_path / "fp16")
    assert {event.shard: event.done_again for event in read_events(layout.logs)} == {"a": 3, "b": 0}
    for read in (read_facts, read_footer):
        assert [read(layout.shard_metadata(name)).done_again for name in ("a", "b")] == [3, 0]
    assert status(layout.root).done_again == 3 and status(tmp_path / "fp32").done_again == 0
    assert b"done_again" not in layout.shard_metadata("b").read_bytes()  # files without any are as before
    rows = open_run(layout.root).read_metadata(["key", "status"]).to_pylist()
    assert {row["status"] for row in rows} == {OK}
    with h5py.File(layout.shard_maps("a")) as low, h5py.File(RunLayout(tmp_path / "fp32").shard_maps("a")) as exact:
        for name in MAPS:
            there, here = exact[f"maps/{name}"][:3], low[f"maps/{name}"][:3]
            np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5 * there.max(), err_msg=name)
        np.testing.assert_allclose(low["features"][:3], exact["features"][:3], rtol=1e-4, atol=1e-5)


def test_what_float32_cannot_hold_either_fails_as_before(folder: Path, tmp_path: Path) -> None:
    """Every image is done again, since a weight is infinite in fp16; white ones overflow in float32 too."""
    shard_of_grey_and_white(tmp_path / "a.tar", 6, white=2)
    values = {"shards": str(tmp_path / "a.tar"), "checkpoint": folder / "worse.pth", "output": tmp_path / "RUN",
              "maps": MAPS, "device": "cpu", "precision": "fp16", "workers": 0, "max_failed_fraction": 1.0}  # fmt: skip
    summary = mine(build_config(None, values))
    assert (summary.images, summary.failed_images, summary.done_again) == (4, 2, 6)
    rows = open_run(tmp_path / "RUN").read_metadata(["key", "status"]).to_pylist()
    assert [row["status"] for row in sorted(rows, key=lambda row: row["key"])] == [NOT_FINITE] * 2 + [OK] * 4


def test_parts_of_a_batch_add_up(folder: Path) -> None:
    _, _, _, low = mined_low(folder)
    few = replace(low, done_again=2).rows(np.array([True] * 3 + [False] * 4))
    assert few.done_again == 2
