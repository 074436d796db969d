"""Samples of a shard: each becomes a row of the metadata. What is known of one before the model sees it (no torch)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jobs.datasets.names import parse_key
from jobs.shards.groups import Group, read_groups
from jobs.shards.tar import Member

MASK_SUFFIX = ".mask.png"  # of a sample's mask; its extension, mask.png, is not that of an image
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
# Rows that are kept, h5_row and all, but without the maps that the target decides.
NO_LABEL = "no_label"
NO_REFERENCE = "no_reference"
KEPT = frozenset({OK, NO_LABEL, NO_REFERENCE})

_INTEGERS = {"pid": 64, "camid": 32, "seq": 32, "frame": 64}  # the metadata columns, by width in bits


@dataclass(kw_only=True)
class Sample:
    """What is known of a sample before the model sees it.

    `camid` is 0-based. `width` and `height` are those of the upright image, in pixels. `image_offset` and `image_size`
    say where the image's bytes are in the tar; the offset is None in a compressed tar. `status` is "ok" or one of the
    reasons above.
    """

    key: str
    tar_index: int
    status: str = OK
    error: str | None = None
    pid: int | None = None
    camid: int | None = None
    seq: int | None = None
    frame: int | None = None
    split: str | None = None
    width: int | None = None
    height: int | None = None
    image_offset: int | None = None
    image_size: int | None = None

    def fail(self, status: str, error: str) -> None:
        """Marks the sample as failed; the first reason stands."""
        if self.status == OK:
            self.status, self.error = status, error


def read_samples(members: Iterable[Member], shard: str) -> Iterator[tuple[Sample, bytes | None]]:
    """(sample, its image's bytes) in tar order; the bytes are None exactly if the sample has failed."""
    seen: set[str] = set()
    for index, group in enumerate(read_groups(members)):
        sample = Sample(key=group.key, tar_index=index, split=split_of(shard))
        if group.key in seen:
            sample.fail(DUPLICATE_KEY, f"the key {group.key!r} came before in this shard")
        seen.add(group.key)
        if group.key.startswith("/") or ".." in group.key.split("/"):
            sample.fail(NAME_UNSAFE, f"the name {group.members[0][1].name!r} leads out of a folder")
        image = _read_group(sample, group)
        yield sample, image if sample.status == OK else None


def split_of(shard: str) -> str | None:
    """The split that a shard's name begins with, such as query for `query-000003`; None for any other name."""
    word = re.match(r"[a-z]+", shard.lower())
    return word[0] if word and word[0] in SPLITS else None


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
        sample.fail(IMAGE_AMBIGUOUS, f"{len(images)} images: {', '.join(m.name for m in images)}")
        return None
    (member,) = images
    if member.data is None:
        sample.fail(NOT_A_FILE, f"member {member.name!r} is a link or a device, which are not followed")
        return None
    sample.image_offset, sample.image_size = member.offset, len(member.data)
    return member.data


def _read_key(sample: Sample) -> None:
    parsed = parse_key(sample.key.rsplit("/", 1)[-1])
    if parsed is not None:
        for name, bits in _INTEGERS.items():
            value = getattr(parsed, name)
            if value is not None and not _fits(value, bits):
                sample.fail(METADATA_INVALID, f"the key {sample.key!r} has the {name} {value}, which is too large")
                value = None
            setattr(sample, name, value)


def _read_json(sample: Sample, member: Member) -> None:
    """Takes metadata from a `.json` member; for what it does not say, the key counts."""
    try:
        content: Any = json.loads(member.data or b"")
    except (ValueError, RecursionError) as error:
        sample.fail(METADATA_INVALID, f"member {member.name!r} is not JSON: {error}")
        return
    if not isinstance(content, dict):
        sample.fail(METADATA_INVALID, f"member {member.name!r} is {type(content).__name__}, not an object")
        return
    for name, bits in _INTEGERS.items():
        value = content.get(name, getattr(sample, name))
        if value is not None and (type(value) is not int or not _fits(value, bits)):
            sample.fail(METADATA_INVALID, f"member {member.name!r}: {name} is {value!r}, expected an integer or null")
            return
        setattr(sample, name, value)
    split = content.get("split", sample.split)
    if split is not None and not isinstance(split, str):
        sample.fail(METADATA_INVALID, f"member {member.name!r}: split is {split!r}, expected a string or null")
        return
    if split is not None and any("\ud800" <= char <= "\udfff" for char in split):
        sample.fail(METADATA_INVALID, f"member {member.name!r}: split is {split!r}, which is not text")
        return
    sample.split = split


def _fits(value: int, bits: int) -> bool:
    """Whether a signed integer of so many bits holds the value."""
    bound = 1 << (bits - 1)
    return -bound <= value < bound
