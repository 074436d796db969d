"""Shards are WebDataset's: its reader reads ours, and ours reads what its writer writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import webdataset

from jobs.datasets.packing import ShardConfig, pack
from jobs.pedestrians.dataset import write_pedestrian_shards
from jobs.shards.reader import Batch, ShardReader
from jobs.shards.samples import Sample
from jobs.shards.urls import expand_shards
from tests.support.shard_files import image_bytes, number_of


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 images in Market-1501's layout; one has a suffix in capitals, one is a PNG."""
    root = tmp_path_factory.mktemp("market")
    for folder, count, first in (("bounding_box_train", 12, 1), ("query", 4, 100), ("bounding_box_test", 7, 200)):
        (root / folder).mkdir()
        for n in range(first, first + count):
            suffix, form = (".png", "PNG") if n == 3 else (".JPG" if n == 4 else ".jpg", "JPEG")
            (root / folder / f"{n:04d}_c{n % 6 + 1}s1_{n:06d}_00{suffix}").write_bytes(image_bytes(n, form=form))
    return root


def test_webdataset_reads_our_shards(market: Path, tmp_path: Path) -> None:
    report = pack(ShardConfig(source=market, dest=tmp_path / "shards", images_per_shard=5))
    urls = [str(path) for path in report.shards]
    found = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert len(found) == report.images == 23
    files = {path.stem: path for path in market.rglob("*.*")}
    assert {sample["__key__"] for sample in found} == set(files)
    for sample in found:
        (suffix,) = sample.keys() - {"__key__", "__url__", "__local_path__", "json"}
        assert suffix == files[sample["__key__"]].suffix[1:].lower()
        assert sample[suffix] == files[sample["__key__"]].read_bytes()
        number = int(sample["__key__"][:4])
        assert json.loads(sample["json"]) == {
            "pid": number, "camid": number % 6, "seq": 1, "frame": number,
            "role": "person", "identity": f"{number:04d}",
            "split": Path(sample["__url__"]).name.partition("-")[0],
        }  # fmt: skip


def test_webdataset_decodes_and_pairs_ours_as_its_users_do(market: Path, tmp_path: Path) -> None:
    report = pack(ShardConfig(source=market, dest=tmp_path / "shards", splits=("query",)))
    pipeline = webdataset.WebDataset([str(path) for path in report.shards], shardshuffle=False, empty_check=False)
    pairs = list(pipeline.decode("pil").to_tuple("jpg;png", "json"))
    assert [note["pid"] for _, note in pairs] == [100, 101, 102, 103]
    for picture, note in pairs:
        red, green, blue = picture.resize((1, 1)).getpixel((0, 0))
        levels = [round((level - 16) / 32) for level in (red, green, blue)]
        assert levels[0] + 8 * levels[1] + 64 * levels[2] == note["pid"]


def test_webdataset_reads_drawn_pedestrians_with_their_masks(tmp_path: Path) -> None:
    sizes = {"train": 0, "test": 1, "cameras": 2, "distractors": 0, "junk": 0}
    paths = write_pedestrian_shards(tmp_path, **sizes)
    found = list(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False, empty_check=False))
    assert len(found) == 6
    assert all({"json", "jpg", "mask.png"} < sample.keys() for sample in found)


def read(folder: Path) -> list[tuple[str, Sample, int | None]]:
    """(shard, sample, the number that its picture carries) of all shards in a folder."""
    found: list[tuple[str, Sample, int | None]] = []
    with ShardReader(image_size=(16, 8), batch_size=4, workers=0) as reader:
        for item in reader.read(expand_shards([str(folder)])):
            if isinstance(item, Batch):
                numbers = iter([number_of(image.numpy()) for image in item.images])
                rows = [(item.shard.name, one, next(numbers) if one.status == "ok" else None) for one in item.samples]
                found += rows
            else:
                assert item.error is None
    return found


def test_our_reader_reads_shards_of_its_writer(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "query-%06d.tar"), maxcount=6, verbose=0) as writer:
        for n in range(14):
            sample = {"__key__": f"{n:04d}_c2s1_{n:06d}_00", "jpg": image_bytes(n)}
            if n % 2:  # the others say it in their names
                sample = {"__key__": f"folder/sample_{n}", "jpg": image_bytes(n), "txt": f"person {n}", "cls": n}
                sample["json"] = {"pid": n, "camid": 1, "seq": 1, "frame": n, "extra": [n]}
            writer.write(sample)
    found = read(tmp_path)
    assert [shard for shard, _, _ in found] == ["query-000000"] * 6 + ["query-000001"] * 6 + ["query-000002"] * 2
    for n, (shard, sample, number) in enumerate(found):
        assert sample.status == "ok" and number == n
        assert (sample.pid, sample.camid, sample.seq, sample.frame) == (n, 1, 1, n)
        assert (sample.split, sample.width, sample.height) == ("query", 16, 32)
        content = (tmp_path / f"{shard}.tar").read_bytes()
        assert sample.image_offset is not None and sample.image_size is not None
        assert content[sample.image_offset :][: sample.image_size] == image_bytes(n)


def test_our_reader_reads_compressed_shards_of_its_writer(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "train-0.tar.gz")) as writer:
        for n in range(3):
            writer.write({"__key__": f"{n:04d}_c1s1_000000_00", "png": image_bytes(n, form="PNG")})
    (tmp_path / "train-0.tar.gz").rename(tmp_path / "train-0.tar")  # known by its content, not by its name
    found = read(tmp_path)
    assert [(sample.pid, number, sample.image_offset) for _, sample, number in found] == [
        (n, n, None) for n in range(3)
    ]
