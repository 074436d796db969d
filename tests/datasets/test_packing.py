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
    assert "ignored 1 files that are not images of the dataset: query/Thumbs.db" in result.output
    assert "38 images in 5 shards of market1501" in result.output
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
    assert "query: 4 images" in result.output and "ignored 35 files" in result.output
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
    with pytest.raises(UserError, match="would both be 'cam1'"):
        pack(ShardConfig(source=tmp_path / "all", dest=tmp_path / "out", pattern=pattern))
    (tmp_path / "all" / "p0" / "cam1.png").rename(tmp_path / "all" / "p0" / "cam2.png")
    report = pack(ShardConfig(source=tmp_path / "all", dest=tmp_path / "out", pattern=pattern))
    assert report.splits == (PackedSplit(split="train", images=2, identities=2, cameras=2),)


def test_two_images_of_one_key_are_named(market: Path, tmp_path: Path) -> None:
    (market / "query" / "0100_c5s1_000100_00.png").write_bytes(image_bytes(1, form="PNG"))
    message = str(shard(market, tmp_path / "out").exception)
    assert "0100_c5s1_000100_00.jpg and" in message and "would both be '0100_c5s1_000100_00'" in message


def test_the_real_sample(market_sample: Path, tmp_path: Path) -> None:
    result = shard(market_sample, tmp_path / "out", "--dataset", "market1501")
    assert "2189 images in 4 shards" in result.output and "ignored 3 files" in result.output
    found = {
        name: data
        for path in (tmp_path / "out").glob("*.tar")
        for name, data in members(path).items()
        if name.endswith(".jpg")
    }
    assert len(found) == 2189
    assert all(data == next(market_sample.rglob(name)).read_bytes() for name, data in found.items())
