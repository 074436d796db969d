"""Which of the addresses that a run brings along are opened: local files, and what the user allowed (no torch).

run.json may come from anybody, so what it says is data. `render`, `gallery` and `faithfulness` open a run's shards
again by this rule:

- A path is opened if it is a regular file. It is read as a tar, and only images in it are used.
- An address such as https:// or s3:// is opened only below `--shards-root`, which the user typed, or with
  `--allow-remote`: a server that only this machine reaches may answer it.
- A `pipe:` command is run only with `--allow-pipes`.

What the user types is not restricted: `mine` takes its shards from its command line or the file given there, also where
it goes on with a run.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from jobs.errors import UserError
from jobs.phrases import counted, first_few, shown
from jobs.shards.urls import PIPE, Shard, moved_shard

_CHAIN = "::"  # fsspec's way to read one address through another; `mine` never records it


@dataclass(frozen=True, kw_only=True)
class ShardAccess:
    """Where the shards of a run are now, and what may be opened. The base of configurations that open them again.

    `shards_root` is the folder or address that they moved to, None where they are where they were. `allow_remote` and
    `allow_pipes` trust the addresses and the commands in run.json.
    """

    shards_root: str | Path | None = None
    allow_remote: bool = False
    allow_pipes: bool = False

    def __post_init__(self) -> None:
        if str(self.shards_root or "").startswith(PIPE):  # names out of run.json would become words of the command
            raise UserError("--shards-root is a folder or an address, not a command")

    @property
    def words(self) -> tuple[str, ...]:
        """The options of a command line that allow the same. A folder is named in full, for use in any folder."""
        root = self.shards_root
        moved = (
            () if root is None else ("--shards-root", str(root) if "://" in str(root) else str(Path(root).absolute()))
        )
        remote = ("--allow-remote",) if self.allow_remote else ()
        return (*moved, *remote, *(("--allow-pipes",) if self.allow_pipes else ()))

    def find(self, shards: Iterable[Shard]) -> list[Shard]:
        """The shards as they may be opened, in their order. Raises UserError, and opens nothing, where one may not."""
        found = [self._moved(shard) for shard in shards]
        asking = [shard for shard in found if shard.recorded]
        self._refuse_commands([shard for shard in asking if shard.url.startswith(PIPE)])
        self._refuse_addresses([shard for shard in asking if not shard.is_local and not shard.url.startswith(PIPE)])
        for shard in found:
            if shard.is_local:
                _refuse_special(shard)
        return [replace(shard, recorded=False) for shard in found]

    def _moved(self, shard: Shard) -> Shard:
        """The shard below `shards_root`, which the user typed and run.json does not lead out of."""
        return shard if self.shards_root is None else replace(moved_shard(shard, self.shards_root), recorded=False)

    def _refuse_commands(self, shards: list[Shard]) -> None:
        if shards and not self.allow_pipes:
            raise UserError(
                f"{counted(len(shards), 'shard')} of the run came from a command ({first_few(s.url for s in shards)}): "
                "a command in run.json is run only with --allow-pipes; give it if you know what the command does, or "
                "--shards-root with a folder that has the tars"
            )

    def _refuse_addresses(self, shards: list[Shard]) -> None:
        for shard in shards:
            if _CHAIN in shard.url:
                raise UserError(f"the shard {shard.name} has an address in run.json that is none: {shown(shard.url)}")
        if shards and not self.allow_remote:
            servers = first_few(dict.fromkeys(_server(shard.url) for shard in shards))
            raise UserError(
                f"{counted(len(shards), 'shard')} of the run came from {servers}: an address in run.json is read only "
                "with --allow-remote; give it if you trust the run, or --shards-root with the folder or address that "
                "has the tars"
            )


def _server(url: str) -> str:
    """`https://host:1` of an address: what is asked for the shard, without a password."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that are no IPv6 address
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _refuse_special(shard: Shard) -> None:
    """Raises UserError for a path that is no regular file: reading a device or a named pipe may never end."""
    try:
        mode = Path(shard.url).stat().st_mode
    except OSError:
        return  # whoever opens it says why
    except ValueError as error:  # a NUL
        raise UserError(f"the shard {shard.name} has a path that is none: {shown(shard.url)}") from error
    if not stat.S_ISREG(mode):
        raise UserError(f"the shard {shard.name} is not a file: {shown(shard.url)}; give its folder with --shards-root")
