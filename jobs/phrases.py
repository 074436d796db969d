"""Phrases that messages share: the first few of many names, a count with its noun, and names as they can be printed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from cam.suggest import did_you_mean

__all__ = [
    "camera_text",
    "counted",
    "counted_kinds",
    "did_you_mean",
    "first_few",
    "is_plain",
    "json_text",
    "one_line",
    "shown",
    "shown_lines",
    "spelled_as",
]
# Control characters, surrogates, separators of lines, and what makes a text read in another order than it has: marks,
# embeddings, overrides and isolates.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def first_few(names: Iterable[object], count: int = 5) -> str:
    """`a, b, c, ...`: at most `count` of the names, as `shown` writes them, and dots where there are more."""
    listed = [shown(name) for name in names]
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")


def camera_text(camid: int | None) -> str:
    """`5 (c6)`: a camera as the metadata count it, from 0, and as names of data sets have it; `?` where unknown."""
    return "?" if camid is None else f"{camid} (c{camid + 1})"


def spelled_as(name: str, known: Iterable[str]) -> str | None:
    """The known name that differs from `name` in case, hyphens and blanks only: market1501 for Market-1501, or None."""
    bare = {"".join(filter(str.isalnum, one)).lower(): one for one in known}
    return bare.get("".join(filter(str.isalnum, name)).lower())


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 shard`, `2 shards`, `1,000 shards`; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def counted_kinds(counts: Mapping[str, int]) -> str:
    """`12 .txt, 3 .json`: kinds with their numbers, the most frequent first."""
    return first_few(f"{count} {kind}" for kind, count in Counter(counts).most_common())


def one_line(error: BaseException) -> str:
    """An error's message on one line, as `shown` writes it; its type where it has no message."""
    return shown(" ".join(str(error).split())) or type(error).__name__


def shown(name: object) -> str:
    """A name as it can be printed. What a terminal obeys or a reader cannot see is escaped: `\\x1b`, `\\u202e`.

    These are control characters, separators of lines, marks that change the direction of a text, and bytes that are not
    UTF-8, such as `\\xd0`. All other characters stay.
    """
    return _HIDDEN.sub(_escaped, str(name))


def shown_lines(text: str) -> str:
    """A text of several lines, each as `shown` writes it but for tabs. A name in it may have lines: show it before."""
    return _HIDDEN.sub(lambda found: found[0] if found[0] in "\n\t" else _escaped(found), text)


def is_plain(name: str) -> bool:
    """Whether a name has nothing that `shown` escapes."""
    return _HIDDEN.search(name) is None


def json_text(content: object, indent: int | None = 1) -> str:
    """A value as readable JSON; on one line where `indent` is None.

    What `shown` escapes is escaped in the texts of the value too, in the way of JSON: `\\u001b`.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return _HIDDEN.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    if "\udc80" <= char <= "\udcff":  # how Python keeps a byte of a file's name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
