"""Phrases that messages share: the first few of many names, and a count with its noun."""

from __future__ import annotations

from collections.abc import Iterable

from cam.suggest import did_you_mean

__all__ = ["counted", "did_you_mean", "first_few", "one_line"]


def first_few(names: Iterable[object], count: int = 5) -> str:
    """`a, b, c, ...`: at most `count` of the names, and dots where there are more."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 shard`, `2 shards`, `1,000 shards`; `plural` where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def one_line(error: BaseException) -> str:
    """An error's message on one line; its type where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__
