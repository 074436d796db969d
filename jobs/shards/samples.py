"""Samples of a shard: each becomes a row of the metadata. What is known of one before the model sees it (no torch)."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.datasets.names import parse_key
from jobs.errors import ShardError
from jobs.identity import ROLES, Role, who_is
from jobs.phrases import one_line, shown
from jobs.shards.groups import Group, ShardContents, read_groups
from jobs.shards.limits import MAX_KEY_LENGTH, MAX_MEMBER_BYTES, MAX_NOTE_BYTES, MAX_SAMPLES, shortened
from jobs.shards.tar import Member
from jobs.shards.urls import FOLDER_MARK

SPLITS = ("train", "val", "query", "gallery", "test")

OK = "ok"
# Why a row has no maps; `error` has the details.
IMAGE_CORRUPT = "image_corrupt"
IMAGE_TOO_LARGE = "image_too_large"
IMAGE_MISSING = "image_missing"
IMAGE_AMBIGUOUS = "image_ambiguous"
METADATA_INVALID = "metadata_invalid"
DUPLICATE_KEY = "duplicate_key"
NAME_UNSAFE = "name_unsafe"
NOT_A_FILE = "not_a_file"
NOT_FINITE = "map_not_finite"
NO_CAMERA = "no_camera"
NO_CAPTION = "no_caption"
# Rows that are kept, h5_row and all, but without the maps that the target decides.
NO_LABEL = "no_label"
NO_REFERENCE = "no_reference"
KEPT = frozenset({OK, NO_LABEL, NO_REFERENCE})

_LONGEST_ERROR = 1000
_DECODER = json.JSONDecoder()
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_INTEGERS = {"pid": 64, "camid": 32, "seq": 32, "frame": 64}  # the metadata columns, by width in bits
_SURELY_FITS = 1 << 31  # integers from 0 on that are below it fit into each of them
_TEXTS = {  # the others, and what they must be
    "split": "a string or null",
    "role": f"{', '.join(ROLES)} or null",
    "identity": "a string that is not empty, or null",
    "caption": "a string that is not empty, or null",
}


@dataclass(kw_only=True, slots=True)
class Sample:
    """What is known of a sample before the model sees it.

    `role` and `identity` say who is on the image, by default as jobs/identity.py has it. `camid` is 0-based. `width`
    and `height` are those of the upright image, in pixels. `image_offset` and `image_size` say where the image's bytes
    are in the tar; the offset is None in a compressed tar. `image_crc32` is the CRC-32 of these bytes. `caption` is a
    text about the image, which is not stored. `status` is "ok" or one of the reasons above.
    """

    key: str
    tar_index: int
    status: str = OK
    error: str | None = None
    pid: int | None = None
    role: Role | None = None
    identity: str | None = None
    camid: int | None = None
    seq: int | None = None
    frame: int | None = None
    split: str | None = None
    width: int | None = None
    height: int | None = None
    image_offset: int | None = None
    image_size: int | None = None
    image_crc32: int | None = None
    caption: str | None = None

    def __post_init__(self) -> None:
        if self.pid is not None or self.role is not None or self.identity is not None:
            self.settle_who()

    def settle_who(self) -> None:
        """Takes the default for what is not stated of the role and the identity."""
        self.role, self.identity = who_is(self.pid, self.key, self.role, self.identity)

    def fail(self, status: str, error: str) -> None:
        """Marks the sample as failed; the first reason stands, at most a thousand characters of it."""
        if self.status == OK:
            self.status, self.error = status, shortened_error(error)


def shortened_error(error: str) -> str:
    """An error as a row holds it: at most a thousand characters of it."""
    return error if len(error) <= _LONGEST_ERROR else f"{error[:_LONGEST_ERROR]}..."


def sample_of_name(key: str) -> Sample:
    """What a key alone says of its image: person and camera, as far as its form is known."""
    sample = Sample(key=key, tar_index=0)
    _read_key(sample)
    return sample


def read_samples(
    members: Iterable[Member], shard: str, contents: ShardContents | None = None
) -> Iterator[tuple[Sample, bytes | None]]:
    """(sample, its image's bytes) in tar order; the bytes are None exactly if the sample has failed.

    `contents` counts what is in the samples and what is in none.
    """
    seen: set[str] = set()
    split = split_of(shard)
    for index, group in enumerate(read_groups(members, contents)):
        if index == MAX_SAMPLES:
            raise ShardError(f"{shard}: it has more than {MAX_SAMPLES:,} samples; pack smaller shards")
        sample = Sample(key=group.key, tar_index=index, split=split)
        if len(group.key) > MAX_KEY_LENGTH:
            sample.key = shortened(group.key)
            sample.fail(NAME_UNSAFE, f"the key has {len(group.key):,} characters, more than {MAX_KEY_LENGTH:,}")
            yield sample, None
            continue
        if group.key in seen:
            sample.fail(DUPLICATE_KEY, f"the key {group.key!r} came before in this shard")
        seen.add(group.key)
        if group.key.startswith("/") or (".." in group.key and ".." in group.key.split("/")):
            sample.fail(NAME_UNSAFE, f"the name {group.members[0][1].name!r} leads out of a folder")
        if _CONTROL.search(group.key):  # no list of keys, terminal or file name can hold it
            sample.key = shown(group.key)
            sample.fail(NAME_UNSAFE, f"the name {group.members[0][1].name!r} has a control character")
        image = _read_safely(sample, group)
        sample.settle_who()
        yield sample, image if sample.status == OK else None


def split_of(shard: str) -> str | None:
    """The split that a shard's name begins with, such as query for `query-000003`; None for any other name.

    A name that got its folders in front has the split further on: `market-query-000003`.
    """
    word = re.match(r"[a-z]+", shard.lower())
    if word and word[0] in SPLITS:
        return word[0]
    return next((part for part in reversed(shard.lower().split(FOLDER_MARK)) if part in SPLITS), None)


def _read_safely(sample: Sample, group: Group) -> bytes | None:
    """The image's bytes. Whatever one sample makes Python raise is that sample's failure."""
    try:
        return _read_group(sample, group)
    except Exception as error:  # noqa: BLE001 -- it is in the row
        sample.fail(METADATA_INVALID, f"reading it failed: {type(error).__name__}: {one_line(error)}")
        return None


def _read_group(sample: Sample, group: Group) -> bytes | None:
    """Fills in the sample from its members and returns the image's bytes."""
    _read_key(sample)
    for member in group.notes:
        _read_json(sample, member)
    images = group.images
    if not images:
        sample.fail(IMAGE_MISSING, f"no image among {', '.join(m.name for _, m in group.members)}")
        return None
    if len(images) > 1:
        sample.fail(IMAGE_AMBIGUOUS, _share_a_key(group.key, images))
        return None
    (member,) = images
    if member.too_large is not None:
        sample.fail(IMAGE_TOO_LARGE, _too_many_bytes(member, member.too_large, MAX_MEMBER_BYTES))
        return None
    if member.data is None:
        sample.fail(NOT_A_FILE, f"member {member.name!r} is a link or a device, which are not followed")
        return None
    sample.image_offset, sample.image_size = member.offset, len(member.data)
    sample.image_crc32 = zlib.crc32(member.data)
    return member.data


def _share_a_key(key: str, images: Sequence[Member]) -> str:
    names = ", ".join(member.name for member in images)
    return f"{len(images)} images share the key {key!r}, which ends at the first dot: {names}"


def _too_many_bytes(member: Member, size: int, most: int) -> str:
    return f"member {shortened(member.name)!r} has {size:,} bytes, more than the {most:,} that are read"


def _read_key(sample: Sample) -> None:
    parsed = parse_key(sample.key.rsplit("/", 1)[-1])
    if parsed is None:
        return
    if max(parsed.pid, parsed.camid, parsed.seq or 0, parsed.frame or 0) < _SURELY_FITS:  # and none is below -1
        sample.pid, sample.camid, sample.seq, sample.frame = parsed
    else:
        for name, bits in _INTEGERS.items():
            value = getattr(parsed, name)
            if value is not None and not _fits(value, bits):
                sample.fail(METADATA_INVALID, f"the key {sample.key!r} has the {name} {value}, which is too large")
                value = None
            setattr(sample, name, value)


def _read_json(sample: Sample, member: Member) -> None:
    """Takes metadata from a `.json` member; for what it does not say, the key counts."""
    size = member.too_large or len(member.data or b"")
    if size > MAX_NOTE_BYTES:
        sample.fail(METADATA_INVALID, _too_many_bytes(member, size, MAX_NOTE_BYTES))
        return
    try:
        content = _json_of(member.data or b"")
    except (ValueError, RecursionError) as error:
        sample.fail(METADATA_INVALID, f"member {member.name!r} is not JSON: {error}")
        return
    if not isinstance(content, dict):
        sample.fail(METADATA_INVALID, f"member {member.name!r} is {type(content).__name__}, not an object")
        return
    for name, bits in _INTEGERS.items():
        if name not in content:
            continue
        value = content[name]
        if value is not None and (type(value) is not int or not (0 <= value < _SURELY_FITS or _fits(value, bits))):
            sample.fail(METADATA_INVALID, f"member {member.name!r}: {name} is {value!r}, expected an integer or null")
            return
        setattr(sample, name, value)
    for name, expected in _TEXTS.items():
        if name not in content:
            continue
        value = content[name]
        if value is not None and not _is_text(name, value):
            sample.fail(METADATA_INVALID, f"member {member.name!r}: {name} is {value!r}, expected {expected}")
            return
        if value is not None and not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            sample.fail(METADATA_INVALID, f"member {member.name!r}: {name} is {value!r}, which is not text")
            return
        setattr(sample, name, value)


def _json_of(data: bytes) -> Any:  # noqa: ANN401 -- whatever JSON there is
    """What `json.loads` makes of it, and raises; in half the time for an object in UTF-8 without spaces around it."""
    if data.startswith(b'{"') and data.endswith(b"}"):
        try:
            text = data.decode()
            content, end = _DECODER.raw_decode(text)
        except ValueError:
            return json.loads(data)
        if end == len(text):
            return content
    return json.loads(data)


def _is_text(name: str, value: object) -> bool:
    """Whether a value may stand in this column."""
    if name == "role":
        return value in ROLES
    return isinstance(value, str) and (name == "split" or value != "")


def _fits(value: int, bits: int) -> bool:
    """Whether a signed integer of so many bits holds the value."""
    bound = 1 << (bits - 1)
    return -bound <= value < bound
