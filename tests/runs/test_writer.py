"""Writing shards: what is published, what is dropped and reported, and what an unexpected error does."""

from __future__ import annotations

import errno
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from cam.measures import MEASURES
from jobs.identity import identities
from jobs.runs.events import ShardReport
from jobs.runs.finalize import finalize
from jobs.runs.footer import read_footer
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.maps_file import ForgivingFile
from jobs.runs.metadata_rows import Results
from jobs.runs.run import open_run
from jobs.runs.schema import metadata_schema
from jobs.runs.writer import Writer
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import NO_LABEL, Sample
from tests.support.made_runs import made_manifest, made_shard

MAPS = ("mim_attention", "gradcam/mim")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return made_manifest(tmp_path, ["a", "b"], MAPS)


def batch(first: int, statuses: str) -> tuple[SampleColumns, Results | None]:
    """Samples and their results by letters: o ok, f failed, n without a target, x non-finite, z with a zero map."""
    samples = [Sample(key=f"k{first + number}", tar_index=first + number, pid=7) for number in range(len(statuses))]
    for sample, letter in zip(samples, statuses, strict=True):
        if letter == "f":
            sample.fail("image_corrupt", "made up")
        if letter == "n":
            sample.status, sample.error = NO_LABEL, "no class"
    imaged = [sample for sample, letter in zip(samples, statuses, strict=True) if letter != "f"]
    if not imaged:
        return SampleColumns.of(samples), None
    letters = statuses.replace("f", "")
    maps = {name: np.full((len(imaged), 4, 2), 1.0, np.float32) for name in MAPS}
    for row, letter in enumerate(letters):
        maps["mim_attention"][row] *= {"x": np.inf, "z": 0}.get(letter, 1)
        maps["gradcam/mim"][row] *= np.nan if letter == "n" else 1
    score = np.array([np.nan if letter == "n" else 0.5 for letter in letters], np.float32)
    features = np.array([[sample.tar_index, 1] for sample in imaged], np.float32)
    predicted, probability = np.arange(len(imaged)), np.full(len(imaged), 0.25, np.float32)
    results = Results(maps=maps, features=features, score=score, predicted=predicted, probability=probability)
    return SampleColumns.of(samples), results


def write(root: Path, manifest: Manifest, *shards: tuple[str, list[str], str | None]) -> list[ShardReport]:
    """The reports of shards, each (name, the letters of its batches, the error that it ends with)."""
    reports: list[ShardReport] = []
    with Writer(RunLayout(root), manifest, 0.5, reports.append) as writer:
        for name, batches, error in shards:
            writer.begin(name)
            first = 0
            for letters in batches:
                writer.add(*batch(first, letters))
                first += len(letters)
            writer.end(error, seconds_reading=1.0, seconds_model=2.0)
    return reports


def test_rows_and_maps_of_a_shard(tmp_path: Path, manifest: Manifest) -> None:
    (report,) = write(tmp_path, manifest, ("a", ["ofo", "ff", "xnz", "o"], None))
    assert (report.shard, report.error, report.images, report.failed_images) == ("a", None, 5, 4)
    assert report.failed == {"image_corrupt": 3, "map_not_finite": 1} and report.partial == {NO_LABEL: 1}
    assert report.zero_maps == {"mim_attention": 1, "gradcam/mim": 0}
    assert (report.seconds_reading, report.seconds_model) == (1.0, 2.0) and report.seconds_writing > 0
    rows = pq.read_table(tmp_path / "metadata" / "a.parquet").to_pylist()
    assert [row["h5_row"] for row in rows] == [0, None, 1, None, None, None, 2, 3, 4]
    assert [row["tar_index"] for row in rows] == list(range(9)) and {row["shard"] for row in rows} == {"a"}
    assert (rows[5]["status"], rows[5]["error"]) == ("map_not_finite", "mim_attention has values that are not finite")
    assert [row["score"] for row in rows] == [0.5, None, 0.5, None, None, None, None, 0.5, 0.5]
    assert [row["predicted"] for row in rows] == [0, None, 1, None, None, None, 1, 2, 0]  # the number in the batch
    assert [row["gradcam_mim_max"] for row in rows] == [1, None, 1, None, None, None, None, 1, 1]
    assert [row["grid_h"] for row in rows] == [4, None, 4, None, None, None, 4, 4, 4]
    run = open_run(tmp_path)
    assert run.read_keys("a") == ["k0", "k2", "k6", "k7", "k8"]
    assert run.read_features("a")[:, 0].tolist() == [0, 2, 6, 7, 8]
    footer = read_footer(tmp_path / "metadata" / "a.parquet")
    assert (footer.rows, footer.images, footer.failed, footer.partial) == (9, 5, report.failed, report.partial)


def test_a_failed_shard_is_dropped_and_the_next_is_written(tmp_path: Path, manifest: Manifest) -> None:
    broken, too_many = write(tmp_path, manifest, ("a", ["oo"], "a: is not a whole tar"), ("b", ["off"], None))
    assert (broken.error, broken.images) == ("a: is not a whole tar", 0)
    assert too_many.error == (
        "b: 2 of 3 samples failed (2 image_corrupt), more than max_failed_fraction 0.5 allows; "
        "the first is 'k1': made up"
    )
    assert not list((tmp_path / "maps").iterdir()) and not list((tmp_path / "metadata").iterdir())
    (report,) = write(tmp_path, manifest, ("b", ["o"], None))
    assert report.error is None and open_run(tmp_path).layout.done() == {"b"}


def test_a_shard_that_cannot_be_opened_fails_alone(tmp_path: Path, manifest: Manifest) -> None:
    name = "no/such/folder"
    failed, good = write(tmp_path, manifest, (name, ["oo", "o"], None), ("a", ["o"], None))
    assert failed.shard == name and failed.error is not None and "cannot write" in failed.error
    assert good.error is None and good.images == 1


def test_a_shard_that_is_open_at_the_end_leaves_nothing(tmp_path: Path, manifest: Manifest) -> None:
    with Writer(RunLayout(tmp_path), manifest, 0.5, lambda report: None) as writer:
        writer.begin("a")
        writer.add(*batch(0, "oo"))
    assert not list((tmp_path / "maps").iterdir())


def test_an_unexpected_error_reaches_the_feeding_thread_and_leaves_nothing(tmp_path: Path, manifest: Manifest) -> None:
    def reported(report: ShardReport) -> None:
        raise ZeroDivisionError(report.shard)

    with pytest.raises(ZeroDivisionError, match="a"), Writer(RunLayout(tmp_path), manifest, 0.5, reported) as writer:
        writer.begin("a")
        writer.end()
        for number in range(100):  # more than the queue holds: nobody waits for ever
            writer.begin(f"b{number}")
            writer.add(*batch(0, "o"))
            writer.end()
    assert not list((tmp_path / "maps").glob(".*"))


class FullDisk(io.BytesIO):
    """A file that takes its first 5000 bytes."""

    def write(self, data: object) -> int:
        if self.tell() + memoryview(data).nbytes > 5000:  # type: ignore[arg-type]
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]


def test_hdf5_closes_on_a_full_disk_and_the_error_is_kept() -> None:
    file = ForgivingFile(FullDisk())
    with h5py.File(file, "w") as h5:
        h5.create_dataset("x", data=np.zeros(100_000))
    assert file.error is not None and file.error.errno == errno.ENOSPC and file.extent > 800_000
    buffer = bytearray(b"unread")
    file.seek(700_000)
    assert file.readinto(buffer) == 6 and buffer == bytes(6)  # what was never written reads as zeros
    assert file.write(b"dropped") == 7 and file.truncate(10) == 10


def test_the_metadata_says_who_is_on_each_image(tmp_path: Path, manifest: Manifest) -> None:
    samples, results = batch(0, "oofo")
    samples.role[:] = ["person", "person", "person", "distractor"]
    samples.identity[1], samples.identity[3] = "train/2", None
    samples.image_crc32[0] = 0xFFFFFFFF
    with Writer(RunLayout(tmp_path), manifest, 0.5, lambda _: None) as writer:
        writer.begin("a")
        writer.add(samples, results)
        writer.end()
    rows = pq.read_table(tmp_path / "metadata" / "a.parquet")
    assert rows["role"].to_pylist() == ["person", "person", "person", "distractor"]
    assert rows["identity"].to_pylist() == ["0007", "train/2", "0007", None]
    assert rows["image_crc32"].to_pylist() == [0xFFFFFFFF, None, None, None]


@pytest.mark.parametrize(
    ("version", "new"),
    [(1, set()), (2, {"mim_attention_area90"}), (3, {"mim_attention_area90", "role", "identity", "image_crc32"})],
)
def test_a_run_of_an_earlier_version_goes_on_with_its_own_columns(tmp_path: Path, version: int, new: set[str]) -> None:
    made_manifest(tmp_path, ["a", "b"])
    content = json.loads((tmp_path / "run.json").read_text())
    del content["sha256"]  # earlier versions had none
    (tmp_path / "run.json").write_text(json.dumps({**content, "schema_version": version}))
    manifest = made_manifest(tmp_path, ["a", "b"])  # as `mine` does when it is called again
    assert manifest.schema_version == version and content["schema_version"] == 3
    for name in ("a", "b"):
        made_shard(tmp_path, manifest, name, [Sample(key="0002_c1s1_000001_00", tar_index=0, pid=2)])
    everything = {"mim_attention_area90", "role", "identity", "image_crc32"}
    assert set(open_run(tmp_path).metadata().to_table().column_names) & everything == new
    joined = finalize(tmp_path)
    assert (joined.rows, joined.shards, joined.path) == (2, 2, tmp_path / "metadata.parquet")
    table = pq.read_table(tmp_path / "metadata.parquet")
    assert table.schema.names == metadata_schema(["mim_attention"], version).names
    assert identities(table).to_pylist() == ["0002" if version == 3 else "2"] * 2


class _Unreadable(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_rows_that_cannot_be_read_again_are_an_error_and_not_zeros(tmp_path: Path) -> None:
    """HDF5 reads the unfinished chunk of a dataset again to add rows to it."""
    file = ForgivingFile(_Unreadable())
    assert file.readinto(bytearray(4)) == 4 and file.error is not None
    assert file.error.errno == errno.EIO


def test_measures_that_come_with_the_results_are_stored_as_they_are(tmp_path: Path, manifest: Manifest) -> None:
    """Of a row that is not finite they are dropped with it."""
    samples, results = batch(0, "oxfo")
    assert results is not None
    measures = np.arange(2 * len(MEASURES) * 3, dtype=np.float32).reshape(2, len(MEASURES), 3)
    with Writer(RunLayout(tmp_path), manifest, 0.5, lambda _: None) as writer:
        writer.begin("a")
        writer.add(samples, replace(results, measures=measures))
        writer.end()
    rows = pq.read_table(tmp_path / "metadata" / "a.parquet")
    for kind, name in enumerate(("mim_attention", "gradcam_mim")):
        for place, measure in enumerate(MEASURES):
            first, last = measures[kind, place, [0, 2]].tolist()
            assert rows[f"{name}_{measure}"].to_pylist() == [first, None, None, last]
    assert rows["grid_h"].to_pylist() == [4, None, None, 4] and rows["h5_row"].to_pylist() == [0, None, None, 1]
