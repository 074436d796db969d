"""The list of shards: paths, globs, brace ranges and addresses to named tar files (no torch)."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import braceexpand

from jobs.errors import UserError
from jobs.shards.remote import check_scheme

PIPE = "pipe:"  # begins a shell command whose output is the shard
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_TAR = re.compile(r"[^\s/'\"|;&<>=]*\.tar\b[^\s/'\"|;&<>]*")
_MANY = 5


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar: `name` is its stem and names its outputs. `size` in bytes is None unless it is a local file."""

    name: str
    url: str
    size: int | None

    @property
    def is_local(self) -> bool:
        """Whether `url` is a path on this machine."""
        return is_local(self.url)


def is_local(url: str) -> bool:
    """Whether an address is a path on this machine: it has no scheme."""
    return _SCHEME.match(url) is None


def expand_shards(patterns: Sequence[str]) -> list[Shard]:
    """The shards that the patterns name, sorted by name.

    A pattern is a path, a folder (all its *.tar), a glob, a `{000..012}` range, a URL, a `pipe:` command, or several
    joined by `::`. Raises UserError on a pattern without a match, a file that is missing, two shards of one name, and
    an address that cannot be read for want of a package.
    """
    urls = dict.fromkeys(url for pattern in patterns for url in _expand(pattern))
    shards = sorted((_shard(url) for url in urls), key=lambda shard: shard.name)
    for one, other in pairwise(shards):
        if one.name == other.name:
            raise UserError(
                f"two shards are called {one.name}: {one.url} and {other.url}; outputs take the shard's name, "
                "so rename one or mine them into two runs"
            )
    _check_schemes(shards)
    return shards


def moved_shard(shard: Shard, shards_root: str | Path | None) -> Shard:
    """The shard as it is found in another folder or at another address: under its base name. None: where it was.

    A shard that came from a command is `<name>.tar` there.
    """
    if shards_root is None:
        return shard
    base = f"{shard.name}.tar" if shard.url.startswith(PIPE) else _base_name(shard.url)
    root = str(shards_root).rstrip("/")
    return replace(shard, url=f"{root}/{base}")


def _base_name(url: str) -> str:
    return url.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]


def _check_schemes(shards: Iterable[Shard]) -> None:
    remote = (shard.url for shard in shards if not shard.is_local and not shard.url.startswith(PIPE))
    for url in {url.partition(":")[0]: url for url in remote}.values():
        check_scheme(url)


def _expand(pattern: str) -> Iterable[str]:
    if pattern.startswith(PIPE):  # a shell command's own braces and globs are the shell's
        return [pattern]
    urls: list[str] = []
    for part in pattern.split("::"):
        try:
            expanded = list(braceexpand.braceexpand(part))
        except ValueError as error:  # UnbalancedBracesError
            raise UserError(f"--shards {part!r}: {error}") from error
        for url in expanded:
            urls += _local(url) if is_local(url) else [url]
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
    """The tars that are where one was looked for."""
    if not path.parent.is_dir():
        return f" (nor does the folder {path.parent})"
    names = sorted(p.name for p in path.parent.glob("*.tar*"))
    if not names:
        return f" (there is no tar in {path.parent})"
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return f" (in its folder: {', '.join(names[:_MANY])}{more})"


def _shard(url: str) -> Shard:
    if url.startswith(PIPE):
        tars = _TAR.findall(url)
        if not tars:
            raise UserError(f"{url!r} names no .tar file that its outputs could be named after")
        base = tars[-1]
    else:
        base = _base_name(url)
    name = base.partition(".tar")[0]
    if not name or name.startswith(".") or any(c in name for c in "/\\\0\n") or len(name.encode()) > 200:
        raise UserError(f"the shard {url!r} has no stem that could name its outputs")
    return Shard(name=name, url=url, size=Path(url).stat().st_size if is_local(url) else None)
