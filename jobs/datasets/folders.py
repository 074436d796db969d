"""The files of a folder and its subfolders: links to folders are followed, links out of it are known (no torch)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from jobs.errors import UserError
from jobs.phrases import shown


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder in the order of their paths; links to folders are followed.

    A link that leads nowhere counts as a file. Raises UserError for a link into a folder that holds it.
    """
    yield from _walk(folder, {})


def links_out(paths: Iterable[Path], source: Path) -> list[Path]:
    """Those of the files below `source` that are links to files elsewhere, in order.

    Elsewhere is outside `source`, and outside every folder on the way from there to the link: these may be links
    themselves, to folders that were put into the data set on purpose.
    """
    known: dict[Path, tuple[str, ...]] = {}
    found = []
    for path in paths:
        if path.is_symlink():
            if path.parent not in known:
                known[path.parent] = _real_folders(path.parent, source)
            target = os.path.realpath(path)
            if not any(_is_below(target, place) for place in known[path.parent]):
                found.append(path)
    return sorted(found)


def _real_folders(folder: Path, source: Path) -> tuple[str, ...]:
    """The folder and those that it is in, up to `source`, with no links in their paths."""
    above = (folder, *folder.parents)
    inside = above[: above.index(source) + 1] if source in above else (folder,)
    return tuple(dict.fromkeys(os.path.realpath(place) for place in inside))


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _walk(folder: Path, above: dict[tuple[int, int], Path]) -> Iterator[Path]:
    facts = folder.stat()
    identity = (facts.st_dev, facts.st_ino)
    if identity in above:
        raise UserError(f"a loop of links: {shown(folder)} leads to {shown(above[identity])}; remove this link")
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = folder / entry.name
        if _is_folder(entry):
            yield from _walk(path, {**above, identity: folder})
        else:
            yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"a loop of links: {shown(entry.path)} leads to itself; remove this link") from error
        raise
