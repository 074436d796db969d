"""`promptsg shard`: original bytes, one split per shard, whole shards only, the same bytes every time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.commands.shard import command
from jobs.datasets.packing import PackedSplit, ShardConfig, pack
from jobs.errors import UserError
from tests.support.shard_files import image_bytes


def shard(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """25 training, 4 query and 9 gallery images, and one stray file."""
    root = tmp_path / "market"
    for folder, count, first in (("bounding_box_train", 25, 0), ("query", 4, 100), ("bounding_box_test", 9, 200)):
        (root / folder).mkdir(parents=True)
        for n in range(first, first + count):
            (root / folder / f"{n:04d}_c{n % 6 + 1}s1_{n:06d}_00.jpg").write_bytes(image_bytes(n))
    (root / "query" / "Thumbs.db").write_bytes(b"?")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]


def test_original_bytes_with_metadata_one_split_per_shard(market: Path, tmp_path: Path) -> None:
    result = shard(market, tmp_path / "out", "--images-per-shard", 10)
    assert result.exit_code == 0, result.output
    assert "train: 25 images, 24 identities, 6 cameras" in result.output  # pid 0 is no identity
    assert "ignored 1 file that is not an image of the dataset: query/Thumbs.db" in result.output
    assert "38 images in 5 shards of market1501" in result.output and "; 37 identities in all" in result.output
    found = {p.name: members(p) for p in (tmp_path / "out").glob("*.tar")}
    assert sorted(found) == [f"{s}.tar" for s in (
        "gallery-000000", "query-000000", "train-000000", "train-000001", "train-000002")]  # fmt: skip
    seen = 0
    for name, files in found.items():
        assert list(files) == sorted(files, key=lambda n: (n.partition(".")[0], n.endswith(".jpg")))
        for file, data in files.items():
            key, _, extension = file.partition(".")
            if extension == "jpg":
                assert data == next(market.rglob(file)).read_bytes()
                note = json.loads(files[f"{key}.json"])
                assert note["split"] == name.partition("-")[0]
                assert (note["pid"], note["camid"]) == (int(key[:4]), int(key[6]) - 1)
                who = ("distractor", None) if key.startswith("0000") else ("person", key[:4])
                assert (note["role"], note["identity"]) == who
                seen += 1
    assert seen == 38


def test_the_same_images_give_the_same_bytes_and_a_seed_shuffles_within_a_split(market: Path, tmp_path: Path) -> None:
    for name, options in (("a", ()), ("b", ()), ("c", ("--shuffle",)), ("d", ("--shuffle", "--seed", 1))):
        assert shard(market, tmp_path / name, *options).exit_code == 0
    a, b, c, d = (contents(tmp_path / name) for name in "abcd")
    assert a == b
    assert a["train-000000.tar"] != c["train-000000.tar"] != d["train-000000.tar"]
    assert sorted(members(tmp_path / "a" / "train-000000.tar")) == sorted(members(tmp_path / "d" / "train-000000.tar"))


def test_finished_shards_are_kept_and_missing_ones_made_again(market: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shard(market, out, "--images-per-shard", 10)
    before = contents(out)
    (out / "train-000001.tar").unlink()
    kept = (out / "train-000000.tar").stat().st_mtime_ns
    assert shard(market, out, "--images-per-shard", 10).exit_code == 0
    assert contents(out) == before and (out / "train-000000.tar").stat().st_mtime_ns == kept


def test_another_request_in_the_same_folder_is_refused(market: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shard(market, out, "--images-per-shard", 10)
    (out / "mine.txt").write_text("stays")
    result = shard(market, out, "--images-per-shard", 5)
    assert "images_per_shard was 10 and is now 5" in str(result.exception)
    next((market / "query").glob("*.jpg")).unlink()
    assert "the images are others" in str(shard(market, out, "--images-per-shard", 10).exception)
    result = shard(market, out, "--images-per-shard", 50, "--overwrite")
    assert "removed 5 shards" in result.output
    assert sorted(contents(out)) == [
        "gallery-000000.tar",
        "mine.txt",
        "query-000000.tar",
        "shards.json",
        "train-000000.tar",
    ]


def test_a_killed_run_leaves_whole_shards_and_goes_on(market: Path, tmp_path: Path) -> None:
    wanted, out = tmp_path / "wanted", tmp_path / "out"
    shard(market, wanted, "--images-per-shard", 1)
    words = [sys.executable, "-m", "jobs", "shard", str(market), str(out), "--images-per-shard", "1"]
    kills = 0
    for _ in range(5):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        count = len(list(out.glob("*.tar"))) if out.exists() else 0
        while process.poll() is None and len(list(out.glob("*.tar"))) < count + 3:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        for path in out.glob("*.tar"):
            assert path.read_bytes() == (wanted / path.name).read_bytes()
    assert kills >= 1
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    assert contents(out) == contents(wanted)


def test_only_some_splits_and_any_layout(market: Path, tmp_path: Path) -> None:
    result = shard(market, tmp_path / "q", "--split", "query")
    assert result.exit_code == 0 and [p.name for p in (tmp_path / "q").glob("*.tar")] == ["query-000000.tar"]
    assert "there is no split 'test'; there are gallery, query, train" in str(
        shard(market, tmp_path / "x", "--split", "test").exception
    )
    pattern = r"(?P<split>query|bounding_box)\w*/(?P<pid>\d+)_c(?P<camid>\d).*\.jpg"
    result = shard(market, tmp_path / "p", "--pattern", pattern.replace("|bounding_box", ""))
    assert "query: 4 images" in result.output and "ignored 1 file" in result.output
    assert "warning: 34 images not packed, since their names or places do not fit the layout" in result.output
    assert shard(market, tmp_path / "y", "--pattern", pattern, "--dataset", "msmt17").exit_code == 2


def test_packing_is_a_function_with_a_typed_report(market: Path, tmp_path: Path) -> None:
    report = pack(ShardConfig(source=market, dest=tmp_path / "out", images_per_shard=20))
    assert report.splits == (
        PackedSplit(split="gallery", images=9, identities=9, cameras=6),
        PackedSplit(split="query", images=4, identities=4, cameras=4),
        PackedSplit(split="train", images=25, identities=24, cameras=6),
    )
    assert [path.name for path in report.shards] == [
        "gallery-000000.tar", "query-000000.tar", "train-000000.tar", "train-000001.tar"]  # fmt: skip
    assert all(path.is_file() for path in report.shards)
    assert (report.images, report.dataset, report.removed, report.missing) == (38, "market1501", (), ())
    assert [path.name for path in report.ignored] == ["Thumbs.db"]
    with pytest.raises(UserError, match="give one of --dataset, --pattern and --csv"):
        ShardConfig(source=market, dest=tmp_path / "out", dataset="msmt17", pattern="x")


def test_a_person_0_counts_where_names_do_not_use_0_for_distractors(tmp_path: Path) -> None:
    for pid in (0, 1):
        path = tmp_path / "all" / f"p{pid}" / "cam1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(image_bytes(pid, form="PNG"))
    pattern = r"p(?P<pid>\d+)/cam(?P<camid>\d+)\.png"
    report = pack(ShardConfig(source=tmp_path / "all", dest=tmp_path / "out", pattern=pattern))
    assert report.splits == (PackedSplit(split="train", images=2, identities=2, cameras=1),)
    assert list(members(report.shards[0])) == ["p0/cam1.json", "p0/cam1.png", "p1/cam1.json", "p1/cam1.png"]
    (tmp_path / "all" / "p0" / "cam1.png").rename(tmp_path / "all" / "p0" / "cam2.png")
    report = pack(ShardConfig(source=tmp_path / "all", dest=tmp_path / "other", pattern=pattern))
    assert report.splits == (PackedSplit(split="train", images=2, identities=2, cameras=2),)
    assert list(members(report.shards[0])) == ["cam1.json", "cam1.png", "cam2.json", "cam2.png"]


def test_splits_get_other_names(market: Path, tmp_path: Path) -> None:
    pattern = r"(?P<split>\w+)/(?P<pid>\d+)_c(?P<camid>\d).*\.jpg"
    renaming = ("--split-map", "bounding_box_test=gallery", "--split-map", "bounding_box_train=train")
    assert "rename it with --split-map 'bounding_box_test=NAME'" in str(
        shard(market, tmp_path / "x", "--pattern", pattern).exception
    )
    result = shard(market, tmp_path / "out", "--pattern", pattern, "--camid-base", 1, *renaming, "--split", "gallery")
    assert result.exit_code == 0 and "gallery: 9 images, 9 identities, 6 cameras" in result.output
    assert "cameras count from 1" not in result.output
    notes = [data for name, data in members(tmp_path / "out" / "gallery-000000.tar").items() if name.endswith("json")]
    assert [json.loads(note)["split"] for note in notes] == ["gallery"] * 9
    assert [json.loads(note)["camid"] for note in notes] == [n % 6 for n in range(200, 209)]
    result = shard(market, tmp_path / "one", "--split-map", "query=all", "--split-map", "gallery=all")
    assert "all: 13 images" in result.output and "train: 25 images" in result.output
    result = shard(market, tmp_path / "y", "--split-map", "test=gallery")
    assert "there is no split 'test'; there are gallery, query, train" in str(result.exception)
    for wrong in ("query", "=x", "query=a_b"):
        assert shard(market, tmp_path / "z", "--split-map", wrong).exit_code == 2
    assert shard(market, tmp_path / "z", "--split-map", "query=a", "--split-map", "query=b").exit_code == 2


def test_cameras_that_seem_to_count_from_1_are_a_warning(market: Path, tmp_path: Path) -> None:
    pattern = r"query/(?P<pid>\d+)_c(?P<camid>\d).*\.jpg"
    for path in (market / "query").glob("*_c1*"):
        path.unlink()
    result = shard(market, tmp_path / "out", "--pattern", pattern)
    assert result.exit_code == 0 and "--camid-base 1" not in result.output  # these begin with 2
    (market / "query" / "0001_c1s1_000001_00.jpg").write_bytes(image_bytes(1))
    result = shard(market, tmp_path / "other", "--pattern", pattern)
    assert "warning: cameras count from 1 in these names and were taken as they are; --camid-base 1" in result.output
    for options in (("--camid", 1, "--camid-base", 1, "--pattern", pattern), ("--camid", 1), ("--camid-base", 1)):
        assert shard(market, tmp_path / "z", *options).exit_code == 2


def test_splits_that_evaluate_does_not_rank_are_a_warning(market: Path, tmp_path: Path) -> None:
    pattern = r"(?P<split>query|bounding_box_test|bounding_box_train)/(?P<pid>-?\d+)_c(?P<camid>\d).*\.jpg"
    names = ("--split-map", "bounding_box_test=test", "--split-map", "bounding_box_train=train")
    said = shard(market, tmp_path / "out", "--pattern", pattern, *names)
    line = "warning: evaluate ranks the split gallery for the split query, and these shards have query, test, train; "
    assert said.exit_code == 0 and f"{line}--split-map NAME=NEW renames a split" in said.stderr.splitlines()
    right = shard(market, tmp_path / "right", "--pattern", pattern, "--split-map", "bounding_box_test=gallery",
                  "--split-map", "bounding_box_train=train")  # fmt: skip
    assert "evaluate" not in right.stderr
    assert "evaluate" not in shard(market, tmp_path / "train", "--split", "train").stderr


def test_each_kind_of_file_that_is_not_packed_has_its_count_and_examples(market: Path, tmp_path: Path) -> None:
    for name in ("query/portrait.jpg", "query/more/a.jpg", "query/0001_c1s1_000001_00.heic"):
        (market / name).parent.mkdir(exist_ok=True)
        (market / name).write_bytes(image_bytes(1))
    (market / "query" / "0300_c1s1_000001_00.jpg").symlink_to("nowhere")
    result = shard(market, tmp_path / "out")
    assert "ignored 1 file that is not an image of the dataset: query/Thumbs.db" in result.stdout
    assert result.stderr.splitlines() == [
        "warning: 2 images not packed, since their names or places do not fit the layout: "
        "more/a.jpg, query/portrait.jpg",
        "warning: 1 image not packed, since their formats are not read: query/0001_c1s1_000001_00.heic",
        "warning: 1 listed or linked files do not exist: query/0300_c1s1_000001_00.jpg",
    ]


def test_an_image_that_is_listed_twice_is_named(market: Path, tmp_path: Path) -> None:
    row = "query/0100_c5s1_000100_00.jpg,100,4,query\n"
    (tmp_path / "list.csv").write_text("path,pid,camid,split\n" + row + row)
    message = str(shard(market, tmp_path / "out", "--csv", tmp_path / "list.csv").exception)
    assert "query/0100_c5s1_000100_00.jpg is listed twice in split query; remove one of the lines" in message


def test_progress_is_a_line_now_and_then_in_a_log(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jobs.progress.INTERVAL_SECONDS", 0.0)
    with caplog.at_level("INFO"):
        pack(ShardConfig(source=market, dest=tmp_path / "out", images_per_shard=10))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 38 and lines[-1].startswith("38 images, ") and ", 100 %, " in lines[-1]


def test_msmt17_counts_persons_over_splits(tmp_path: Path) -> None:
    """Pids 0 and 1 are two persons in training and validation, and two others in testing."""
    for list_name, folder, camera in (("train", "train", 1), ("val", "train", 2), ("query", "test", 3),
                                      ("gallery", "test", 4)):  # fmt: skip
        lines = []
        for pid in (0, 1):
            name = f"{pid:04d}/{pid:04d}_000_{camera:02d}_0303morning_0008_0.jpg"
            (tmp_path / "M" / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "M" / folder / name).write_bytes(image_bytes(pid))
            lines.append(f"{name} {pid}\n")
        (tmp_path / "M" / f"list_{list_name}.txt").write_text("".join(lines))
    result = shard(tmp_path / "M", tmp_path / "out")
    assert "; 4 identities in all" in result.output
    assert all(f"{split}: 2 images, 2 identities" in result.output for split in ("train", "val", "query", "gallery"))
    notes = [json.loads(d) for p in (tmp_path / "out").glob("*.tar") for n, d in members(p).items() if "json" in n]
    found = sorted((note["split"], note["pid"], note["role"], note["identity"]) for note in notes)
    assert found == sorted(
        (split, pid, "person", f"{'train' if split in ('train', 'val') else 'test'}/{pid}")
        for split in ("train", "val", "query", "gallery")
        for pid in (0, 1)
    )


def test_two_images_of_one_key_are_named(market: Path, tmp_path: Path) -> None:
    (market / "query" / "0100_c5s1_000100_00.png").write_bytes(image_bytes(1, form="PNG"))
    message = str(shard(market, tmp_path / "out").exception)
    assert "0100_c5s1_000100_00.jpg and" in message and "would both be '0100_c5s1_000100_00'" in message


def test_the_real_sample(market_sample: Path, tmp_path: Path) -> None:
    result = shard(market_sample, tmp_path / "out", "--dataset", "market1501")
    assert "2,189 images in 4 shards" in result.output and "ignored 3 files" in result.output
    found = {
        name: data
        for path in (tmp_path / "out").glob("*.tar")
        for name, data in members(path).items()
        if name.endswith(".jpg")
    }
    assert len(found) == 2189
    assert all(data == next(market_sample.rglob(name)).read_bytes() for name, data in found.items())
