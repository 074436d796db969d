"""The list of shards: paths, globs, brace ranges and URLs to named tar files (no torch)."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import braceexpand

from jobs.errors import UserError

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_TAR = re.compile(r"[^\s/'\"|;&<>=]*\.tar\b[^\s/'\"|;&<>]*")
_MANY = 5


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar: `name` is its stem and names its outputs; `size` in bytes is None for what is not a local file."""

    name: str
    url: str
    size: int | None

    @property
    def is_local(self) -> bool:
        """Whether `url` is a path on this machine."""
        return _SCHEME.match(self.url) is None


def expand_shards(patterns: Sequence[str]) -> list[Shard]:
    """The shards that the patterns name, sorted by name.

    A pattern is a path, a folder (all its *.tar), a glob, a `{000..012}` range, a URL, a `pipe:` command, or several
    joined by `::`. Raises UserError on a pattern without a match, a file that is missing, and two shards of one name.
    """
    urls = dict.fromkeys(url for pattern in patterns for url in _expand(pattern))
    shards = sorted((_shard(url) for url in urls), key=lambda shard: shard.name)
    for one, other in pairwise(shards):
        if one.name == other.name:
            raise UserError(
                f"two shards are called {one.name}: {one.url} and {other.url}; outputs take the shard's name, "
                "so rename one or mine them into two runs"
            )
    return shards


def _expand(pattern: str) -> Iterable[str]:
    if pattern.startswith("pipe:"):  # a shell command's own braces and globs are the shell's
        return [pattern]
    urls: list[str] = []
    for part in pattern.split("::"):
        try:
            expanded = list(braceexpand.braceexpand(part))
        except ValueError as error:  # UnbalancedBracesError
            raise UserError(f"--shards {part!r}: {error}") from error
        for url in expanded:
            urls += [url] if _SCHEME.match(url) else _local(url)
    return urls


def _local(pattern: str) -> list[str]:
    path = Path(pattern).expanduser()
    if path.is_file():  # also where a name has glob characters of its own
        return [str(path.absolute())]
    if path.is_dir():
        return _some_or_raise(sorted(path.glob("*.tar")), f"the folder {path} holds no *.tar")
    if glob.has_magic(pattern):
        found = [Path(p) for p in glob.glob(str(path), recursive=True)]
        return _some_or_raise([p for p in found if p.is_file()], f"no file matches {pattern!r}")
    raise UserError(f"the shard {path} does not exist{_neighbours(path)}")


def _some_or_raise(paths: Sequence[Path], problem: str) -> list[str]:
    if not paths:
        raise UserError(problem)
    return [str(path.absolute()) for path in paths]


def _neighbours(path: Path) -> str:
    """What tars there are where one was looked for."""
    if not path.parent.is_dir():
        return f" (nor does the folder {path.parent})"
    names = sorted(p.name for p in path.parent.glob("*.tar*"))
    if not names:
        return f" (there is no tar in {path.parent})"
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return f" (in its folder: {', '.join(names[:_MANY])}{more})"


def _shard(url: str) -> Shard:
    local = _SCHEME.match(url) is None
    if url.startswith("pipe:"):
        tars = _TAR.findall(url)
        if not tars:
            raise UserError(f"{url!r} names no .tar file that its outputs could be named after")
        base = tars[-1]
    else:
        base = url.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
    name = base.partition(".tar")[0]
    if not name or name.startswith(".") or any(c in name for c in "/\\\0\n") or len(name.encode()) > 200:
        raise UserError(f"the shard {url!r} has no stem that could name its outputs")
    return Shard(name=name, url=url, size=Path(url).stat().st_size if local else None)
