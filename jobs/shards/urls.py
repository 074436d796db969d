"""The list of shards: paths, globs, brace ranges and addresses to named tar files (no torch)."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import braceexpand

from jobs.errors import UserError
from jobs.phrases import is_plain
from jobs.progress import told
from jobs.shards.names import FOLDER_MARK, PIPE, base_of, folders_in_name, folders_of, is_file_name, unique_names
from jobs.shards.remote import check_scheme

__all__ = ["FOLDER_MARK", "PIPE", "Shard", "expand_shards", "is_local", "moved_shard"]

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_MANY = 5


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar: `name` names its outputs; it is the tar's stem, with folders in front where stems repeat.

    `size` in bytes, and when it was last written, in nanoseconds since 1970, are None unless it is a local file.
    `recorded` is whether `url` comes from a run.json: then jobs/shards/access.py decides whether it is opened.
    """

    name: str
    url: str
    size: int | None
    modified_ns: int | None = None
    recorded: bool = field(default=False, compare=False)

    @property
    def is_local(self) -> bool:
        """Whether `url` is a path on this machine."""
        return is_local(self.url)


def is_local(url: str) -> bool:
    """Whether an address is a path on this machine: it has no scheme."""
    return _SCHEME.match(url) is None


@told("listing the shards")
def expand_shards(patterns: Sequence[str]) -> list[Shard]:
    """The shards that the patterns name, sorted by name.

    A pattern is a path, a folder (all its *.tar), a glob, a `{000..012}` range, a URL, a `pipe:` command, or several
    joined by `::`. Tars of one stem are named by their folders too: `train/00000.tar` is `train-00000`.

    Raises UserError on a pattern without a match, a file that is missing, two shards that no folder tells apart, a file
    that is listed twice, and an address that cannot be read for want of a package.
    """
    urls = list(dict.fromkeys(url for pattern in patterns for url in _expand(pattern)))
    named = zip(unique_names(urls), urls, strict=True)
    shards = sorted((_shard(name, url) for name, url in named), key=lambda shard: shard.name)
    for one, other in pairwise(shards):
        if one.name == other.name:
            raise UserError(
                f"two shards are called {one.name}: {one.url} and {other.url}; outputs take the shard's name, "
                "so rename one or mine them into two runs"
            )
    _refuse_twice([shard for shard in shards if shard.is_local and folders_in_name(shard.name, shard.url)])
    _check_schemes(shards)
    return shards


def moved_shard(shard: Shard, shards_root: str | Path | None) -> Shard:
    """The shard as it is found in another folder or at another address. None: where it was.

    It lies there under its base name, or in a folder of its own folder's name. A shard that is named by its folders
    lies in these, or `shards_root` is the innermost of them, or it is `<name>.tar` there, as one that came from a
    command is. Where none of these exists, it is the first of them.
    """
    if shards_root is None:
        return shard
    root = str(shards_root).rstrip("/")
    if not is_local(root) and Path(root).is_dir():
        root = str(Path(root).absolute())
    places = [f"{root}/{place}" for place in _places(shard, root)]
    found = places[0] if not is_local(places[0]) else next((p for p in places if Path(p).is_file()), places[0])
    return replace(shard, url=found)


def _places(shard: Shard, root: str) -> list[str]:
    """Where a shard may lie below a root, the likeliest first, and never outside of it."""
    base = base_of(shard.url)
    if shard.url.startswith(PIPE) or base in (None, "", ".", "..") or ".." in folders_of(shard.url):
        return [f"{shard.name}.tar"]
    if folders := folders_in_name(shard.name, shard.url):
        inside = [base] if Path(root).name == folders[-1] else []
        return ["/".join([*folders, base]), *inside, f"{shard.name}.tar"]
    return [base, *(f"{folder}/{base}" for folder in folders_of(shard.url)[-1:])]


def _refuse_twice(shards: Iterable[Shard]) -> None:
    """Raises UserError where one file is there under two paths: its images would be mined twice."""
    seen: dict[tuple[int, int], Shard] = {}
    for shard in shards:
        facts = Path(shard.url).stat()
        other = seen.setdefault((facts.st_dev, facts.st_ino), shard)
        if other is not shard:
            raise UserError(f"{other.url} and {shard.url} are the same file; list it once")


def _check_schemes(shards: Iterable[Shard]) -> None:
    remote = (shard.url for shard in shards if not shard.is_local and not shard.url.startswith(PIPE))
    for url in {url.partition(":")[0]: url for url in remote}.values():
        check_scheme(url)


def _expand(pattern: str) -> Iterable[str]:
    if pattern.startswith(PIPE):  # a shell command's own braces and globs are the shell's
        return [pattern]
    if _is_there(pattern):
        return _local(pattern)
    urls: list[str] = []
    for part in pattern.split("::"):
        if _is_there(part):
            urls += _local(part)
            continue
        try:
            expanded = list(braceexpand.braceexpand(part))
        except ValueError as error:  # UnbalancedBracesError
            raise UserError(f"--shards {part!r}: {error}") from error
        for url in expanded:
            urls += _local(url) if is_local(url) or _is_there(url) else [url]
    return urls


def _is_there(pattern: str) -> bool:
    """Whether a pattern means local files as it stands: a name may have a colon, and a folder braces.

    A glob is only tried where its colon or braces could mean something else.
    """
    path = Path(pattern).expanduser()
    try:
        if path.exists():
            return True
    except (OSError, ValueError):  # longer than a name may be
        return False
    if "://" in pattern or not (":" in pattern or "{" in pattern) or not glob.has_magic(pattern):
        return False
    return next(glob.iglob(str(path), recursive=True), None) is not None


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


def _shard(name: str | None, url: str) -> Shard:
    if name is None:
        raise UserError(f"{url!r} names no .tar file that its outputs could be named after")
    if not (is_plain(name) and is_file_name(name)):
        raise UserError(f"the shard {url!r} has no stem that could name its outputs")
    if not is_local(url):
        return Shard(name=name, url=url, size=None)
    facts = Path(url).stat()
    return Shard(name=name, url=url, size=facts.st_size, modified_ns=facts.st_mtime_ns)
