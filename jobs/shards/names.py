"""The names of shards: a tar's stem, with folders in front where several tars of a list have one stem (no torch)."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

PIPE = "pipe:"  # begins a shell command whose output is the shard
FOLDER_MARK = "-"  # between a folder and what follows it: `train/00000.tar` becomes `train-00000`
_TAR = re.compile(r"[^\s/'\"|;&<>=]*\.tar\b[^\s/'\"|;&<>]*")
_LONGEST = 200  # bytes
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\/]")


def is_file_name(name: str) -> bool:
    """Whether a shard's name can name its files: it leads into no folder, begins with no dot and is not too long."""
    if not name or name.startswith(".") or any(char in name for char in "/\\\0\n"):
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= _LONGEST


def base_of(url: str) -> str | None:
    """The file name of a path or address, or of the last tar that a command names; None if it names none."""
    if url.startswith(PIPE):
        tars: list[str] = _TAR.findall(url)
        return tars[-1] if tars else None
    return url.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]


def stem_of(url: str) -> str | None:
    """The file name up to `.tar`; None if there is none."""
    base = base_of(url)
    return None if base is None else base.partition(".tar")[0]


def folders_of(url: str) -> tuple[str, ...]:
    """The folders that a shard is in, the outermost first: for an address the host too. A command has none."""
    if url.startswith(PIPE):
        return ()
    if "://" in url:
        return tuple(part for part in url.partition("?")[0].partition("://")[2].split("/")[:-1] if part)
    return tuple(part for part in PurePath(os.path.normpath(url)).parts[:-1] if part != os.sep)


def unique_names(urls: Sequence[str]) -> list[str | None]:
    """A name for each address, in their order: its stem, or with folders where the stem is there several times.

    All tars of one stem get the same number of folders, as few as make them different. The names depend on nothing but
    the addresses. Where no folder helps, a name is there several times.
    """
    stems = [stem_of(url) for url in urls]
    counts = Counter(stems)
    taken = {stem for stem, count in counts.items() if count == 1}
    names = dict(zip(urls, stems, strict=True))
    for stem in sorted(stem for stem, count in counts.items() if stem is not None and count > 1):
        same = [url for url in urls if names[url] == stem]
        found = _told_apart(same, stem, taken)
        names.update(zip(same, found, strict=True))
        taken.update(found)
    return [names[url] for url in urls]


def folders_in_name(name: str, url: str) -> tuple[str, ...]:
    """The folders that a shard's name begins with; none where the name is the stem alone."""
    stem, folders = stem_of(url), folders_of(url)
    if stem is None or name == stem:
        return ()
    depths = range(1, len(folders) + 1)
    return next((folders[-depth:] for depth in depths if _with_folders(stem, folders[-depth:]) == name), ())


def _told_apart(urls: Sequence[str], stem: str, taken: set[str | None]) -> list[str]:
    """Names of tars of one stem that differ from each other and from those that are taken; the stems, if none do."""
    folders = [folders_of(url) for url in urls]
    for depth in range(1, max(map(len, folders)) + 1):
        names = [_with_folders(stem, parts[-depth:]) for parts in folders]
        if len(set(names)) == len(names) and not taken & set(names):
            return names
    return [stem] * len(urls)


def _with_folders(stem: str, folders: Sequence[str]) -> str:
    """The name of a tar that has these folders in front. It is a safe file name and does not begin with a dot."""
    name = _UNSAFE.sub("_", FOLDER_MARK.join([*folders, stem]))
    return f"_{name[1:]}" if name.startswith(".") else name
