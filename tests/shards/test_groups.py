"""Which members are images, which share a key, and what is counted of all others."""

from __future__ import annotations

import io
import json
import zlib
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from jobs.image_names import IMAGE_SUFFIXES
from jobs.phrases import shown
from jobs.shards.groups import ShardContents, key_of
from jobs.shards.samples import Sample, read_samples
from jobs.shards.tar import Member as TarMember
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard
from promptsg_core.images import decode_pixels
from tests.support.shard_files import Member, colour_of, image_bytes, write_tar


def read(tmp_path: Path, members: list[Member]) -> tuple[list[Sample], list[bytes | None], ShardContents]:
    path, contents = write_tar(tmp_path / "s.tar", members), ShardContents()
    with TarReader(Shard(name="s", url=str(path), size=None)) as tar:
        found = list(read_samples(tar, "s", contents))
    return [sample for sample, _ in found], [data for _, data in found], contents


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("X.jpg", "X"),
        ("X.rgb.jpg", "X"),
        ("X.jpg.jpg", "X"),
        ("X_0.93.jpg", "X_0"),
        ("X.tif", "X"),
        ("X.JFIF", "X"),
        ("v1.0/X.a.b.jpe", "v1.0/X"),
        (".X.jpg", ".X"),
        ("..X.y.jpg", "..X"),
        ("X..jpg", "X"),
        ("X.dat", "X"),  # by its content, and so are the next ones
        ("X", "X"),
        ("X.jpg.1", "X"),
        ("X.jpg.bak", "X"),
        (".jpg", ".jpg"),
        ("__X__.jpg", "__X__"),
        ("X.", "X"),
    ],
)
def test_a_member_that_is_an_image_is_a_row(tmp_path: Path, name: str, key: str) -> None:
    picture = image_bytes(3)
    (sample,), (data,), contents = read(tmp_path, [(name, picture)])
    assert (sample.key, sample.status, sample.image_size) == (key, "ok", len(picture)) and key_of(name) == key
    assert data == picture and sample.image_crc32 == zlib.crc32(picture)
    assert contents == ShardContents(images=1)


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES - {".pbm", ".pgm"}))
def test_every_suffix_of_an_image_is_mined_and_decodes(tmp_path: Path, suffix: str) -> None:
    form = Image.registered_extensions().get(suffix)
    if form is None or form not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {suffix}")
    out = io.BytesIO()
    Image.new("RGB", (16, 32), colour_of(5)).save(out, form)
    (sample,), (data,), _ = read(tmp_path, [(f"X{suffix}", out.getvalue())])
    assert sample.status == "ok" and data is not None and decode_pixels(data).shape == (32, 16, 3)


@pytest.mark.parametrize(
    "names",
    [("X.left.jpg", "X.right.jpg"), ("X_0.93.jpg", "X_0.87.jpg"), ("X.jpg", "X.ir.png"), ("X.jpg", "X.heic"),
     ("X.jpg", "X.jpg.bak")],
)  # fmt: skip
def test_two_images_of_one_key_are_one_row_that_says_so(tmp_path: Path, names: tuple[str, str]) -> None:
    (sample,), (data,), contents = read(tmp_path, [(name, image_bytes(number)) for number, name in enumerate(names)])
    key = key_of(names[0])
    assert sample.status == "image_ambiguous" and data is None and contents.images == 2
    assert sample.error == f"2 images share the key {key!r}, which ends at the first dot: {names[0]}, {names[1]}"


def test_a_mask_is_no_image_and_its_sample_is_mined(tmp_path: Path) -> None:
    mask = image_bytes(2, form="PNG")
    samples, data, contents = read(tmp_path, [("X.mask.png", mask), ("X.jpg", image_bytes(1)), ("Y.MASK.PNG", mask)])
    assert [(s.key, s.status) for s in samples] == [("X", "ok")] and data == [image_bytes(1)]
    assert contents == ShardContents(images=1, passed_over=Counter({".png": 1}))  # Y's mask has no image


def test_an_image_of_a_format_that_is_not_read_is_a_row_too(tmp_path: Path) -> None:
    (sample,), (data,), _ = read(tmp_path, [("X.heic", b"\0\0\0\x18ftypheic" + bytes(99))])
    assert sample.status == "ok" and data is not None  # its decoding will say what it is
    with pytest.raises(Exception, match="no image format that is known here: HEIF is not read here"):
        decode_pixels(data)


def test_metadata_is_found_beside_an_image_with_dots_in_its_name(tmp_path: Path) -> None:
    for image, note in (("X.rgb.jpg", "X.rgb.json"), ("X_0.93.jpg", "X_0.93.json"), ("X.rgb.jpg", "X.json")):
        (sample,), _, contents = read(tmp_path, [(note, json.dumps({"pid": 7}).encode()), (image, image_bytes(1))])
        assert (sample.status, sample.pid, contents.passed_over) == ("ok", 7, Counter())
    members = [("X.pose.json", b"[1]"), ("X.json", b'{"pid": 8}'), ("X.jpg", image_bytes(1))]
    (sample,), _, contents = read(tmp_path, members)
    assert (sample.status, sample.pid, contents.passed_over) == ("ok", 8, Counter({".json": 1}))


def test_all_else_is_counted_by_kind(tmp_path: Path) -> None:
    members = [
        ("README", b"x"), ("a.txt", b"1"), ("X.jpg", image_bytes(1)), ("X.txt", b"2"), ("X.json", b"{}"),
        ("._X.jpg", image_bytes(2)), ("__MACOSX/._X.jpg", image_bytes(3)), ("__MACOSX/Y.jpg", image_bytes(4)),
        ("Thumbs.db", image_bytes(5)), ("d/.DS_Store", b"x"), ("__meta__.json", b"{}"), ("b.CLS", b"4"),
    ]  # fmt: skip
    samples, _, contents = read(tmp_path, members)
    assert [(s.key, s.status) for s in samples] == [("X", "ok")]
    assert contents.passed_over == Counter({
        ".txt": 2, "._*": 2, "without a suffix": 1, "Y.jpg": 1, "Thumbs.db": 1, ".DS_Store": 1, ".json": 1, ".cls": 1,
    })  # fmt: skip
    _, _, contents = read(tmp_path, [(f"{n}.k{n}", b"x") for n in range(50)])
    assert contents.passed_over["others"] == 30 and len(contents.passed_over) == 21


def test_what_a_shard_without_images_holds(tmp_path: Path) -> None:
    _, _, contents = read(tmp_path, [(f"t{n}.txt", b"x") for n in range(12)] + [(f"{n}.json", b"{}") for n in range(3)])
    assert contents.images == 0 and contents.held_instead() == "12 .txt, 3 .json"
    assert ShardContents().held_instead() == ""


@pytest.mark.parametrize("control", ["\r", "\n", "\x1b", "\t", "\x7f", "\x9b"])
def test_a_key_with_a_control_character_is_a_failed_row(tmp_path: Path, control: str) -> None:
    name = f"0002_c1{control}s1.jpg"
    (bad, good), (nothing, data), _ = read(tmp_path, [(name, image_bytes(1)), ("0003_c1s1.jpg", image_bytes(2))])
    assert (bad.key, bad.status) == (shown(f"0002_c1{control}s1"), "name_unsafe") and nothing is None
    assert bad.error == f"the name {name!r} has a control character"
    assert (good.key, good.status) == ("0003_c1s1", "ok") and data is not None


def test_a_key_with_nul_is_a_failed_row() -> None:
    members = [TarMember(name="a\0b.jpg", offset=512, data=image_bytes(1))]  # only a PAX header can bear one
    ((sample, data),) = read_samples(members, "s")
    assert (sample.key, sample.status, data) == (r"a\x00b", "name_unsafe", None)
