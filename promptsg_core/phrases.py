"""Phrases that error messages share. cam and jobs have their own, since this package imports neither."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean neck_feat?`, to be added to what is wrong, or nothing where no valid name is near."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def first_few(names: Sequence[str], count: int = 8) -> str:
    """`a, b, c and 4 more`: the first names, and how many others there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def printable(text: str, longest: int = 1000) -> str:
    """Text from a file in one line: control characters escaped, and cut where it is very long."""
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[:longest])
    return shown if len(text) <= longest else f"{shown}..."
