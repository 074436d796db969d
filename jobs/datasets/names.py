"""What the base names of the known data sets say: person, camera, sequence and frame (no torch).

Person ids are as in the name. Camera ids are 0-based, though every known name counts cameras from 1. A pattern must
match the whole base name and never sees a path: a folder may be called like an image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class ParsedKey(NamedTuple):
    """What a base name says: person, 0-based camera, and where known the sequence and frame."""

    pid: int
    camid: int
    seq: int | None = None
    frame: int | None = None


# Tried in this order; no name fits two. Of the other numbers in a name, those are kept that have a metadata column.
# Pids have four digits, and more where there are more persons.
_PATTERNS: Mapping[str, re.Pattern[str]] = {
    "market1501": re.compile(r"(?P<pid>-1|\d{4,9})_c(?P<cam>\d+)s(?P<seq>\d+)_(?P<frame>\d+)_\d+"),
    "dukemtmc": re.compile(r"(?P<pid>\d{4,9})_c(?P<cam>\d+)_f(?P<frame>\d+)"),
    "cuhk03-np": re.compile(r"(?P<pid>\d{4,9})_c(?P<cam>\d+)_\d+"),
    "msmt17": re.compile(r"(?P<pid>\d{4,9})_\d{3,}_(?P<cam>\d{2})_\d{4}\w+?_(?P<frame>\d+)_\d+(_ex)?"),
}


def parse_key(key: str) -> ParsedKey | None:
    """What a key says that has the form of any known data set; None for any other key."""
    for name in _PATTERNS:
        if (parsed := parse_as(name, key)) is not None:
            return parsed
    return None


def parse_as(dataset: str, key: str) -> ParsedKey | None:
    """What a key says by the pattern of one data set; None if it does not match."""
    found = _PATTERNS[dataset].fullmatch(key)
    if found is None:
        return None
    texts = found.groupdict()
    seq, frame = texts.get("seq"), texts.get("frame")
    return ParsedKey(
        pid=int(texts["pid"]),
        camid=int(texts["cam"]) - 1,
        seq=None if seq is None else int(seq),
        frame=None if frame is None else int(frame),
    )
