"""The short ways for names, notes and headers of the usual kind say what the long ways say."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from jobs.image_names import PLAIN_NAME, is_hidden_clutter, is_image
from jobs.shards.groups import key_of
from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard
from tests.support.shard_files import image_bytes, write_tar

PLAIN = ["a.jpg", "-1_c1s1_000001_00.jpg", "d/e/0002_c1s1_000451_03.json", "1.jpeg", "d_/a_.png"]
OTHERS = [
    "a.JPG", "a.rgb.jpg", "a.mask.png", ".a.jpg", "_a.jpg", "__meta__.json", "d/__meta__.json", "._a.jpg",
    "__MACOSX/a.jpg", "d/__macosx/a.jpg", ".AppleDouble/a.jpg", "/a.jpg", "../a.jpg", "d/../a.jpg", "d//a.jpg",
    "d/.jpg", ".jpg", "a.jpg\n", "\u00fc.jpg", "\u0661.jpg", "a", "a.", "a.txt", "a b.jpg", "a\0.jpg",
]  # fmt: skip
NOTES = [
    b"", b"{}", b'{"pid": 1}', b' {"pid": 1}', b'{"pid": 1} ', b'{"pid": 1}}', b'{"pid": 1', b'{"pid": }', b'{"pid"}',
    b'{"a": 1} {"b": 2}', b'{"caption": "\xc3\xbc"}', b'{"caption": "\xff"}', b'{"caption": "\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"pid": 1}', '{"pid": 1}'.encode("utf-16"), '{"pid": 1}'.encode("utf-16-le"), b'{"pid": 1, "pid": 2}',
    b'{"x": NaN}', b'{"":' * 50_000 + b'{"a": 1}', b"[1]", b"7",
]  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name_is_split_as_any_name_is(name: str) -> None:
    found = PLAIN_NAME.fullmatch(name)
    assert found is not None and found[1] == key_of(name) and name == f"{found[1]}.{found[2]}"
    assert not is_hidden_clutter(name) and is_image(name) == (found[2] != "json")


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_name_is_looked_into(name: str) -> None:
    assert PLAIN_NAME.fullmatch(name) is None


@pytest.mark.parametrize("note", NOTES)
def test_a_note_says_what_json_says(tmp_path: Path, note: bytes) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.jpg", image_bytes()), ("a.json", note)])
    with TarReader(Shard(name="s", url=str(path), size=None)) as tar:
        ((sample, _),) = read_samples(tar, "s")
    content, error = _as_json_has_it(note)
    if isinstance(content, dict):
        assert (sample.status, sample.pid, sample.error) in (("ok", content.get("pid"), None), _not_text(content))
    else:
        expected = f"member 'a.json' is {type(content).__name__}, not an object"
        assert (sample.status, sample.error) == ("metadata_invalid", error or expected)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(tmp_path: Path, form: int) -> None:
    path = tmp_path / "s.tar"
    (tmp_path / "f").write_bytes(bytes(range(256)) * 5)
    with tarfile.open(path, "w", format=form) as tar:
        for name in ["0002_c1s1_000451_03.jpg", "d/a.json", "\u00fc.jpg", "k" * 99, "k/" * 60 + "a.jpg", "last.png"]:
            tar.add(tmp_path / "f", name)
    with TarReader(Shard(name="s", url=str(path), size=None)) as reader:
        found = [(member.name, member.offset, member.data) for member in reader]
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        expected = [(info.name, info.offset_data) for info in tar]
    assert [(name, offset) for name, offset, _ in found] == expected
    assert all(data is not None and content[offset:][:1280] == data for _, offset, data in found)


def _as_json_has_it(note: bytes) -> tuple[Any, str | None]:
    """(content, the message of a note that cannot be read)."""
    try:
        return json.loads(note), None
    except (ValueError, RecursionError) as error:
        return None, f"member 'a.json' is not JSON: {error}"


def _not_text(content: dict[str, Any]) -> tuple[str, None, str]:
    """The outcome of a caption that no text can have: half of a pair of surrogates."""
    message = f"member 'a.json': caption is {content.get('caption')!r}, which is not text"
    return "metadata_invalid", None, message
