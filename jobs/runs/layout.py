"""Where the files are inside a run's folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.shards.names import is_file_name

_ADDED = re.compile(r"maps-[2-9]|maps-[1-9][0-9]+")


@dataclass(frozen=True)
class RunLayout:
    """Paths of one run. Only `done`, `done_and_begun` and `added_folders` read the disk, and nothing is created.

    Of the shards in `begun` the paths are those of their first images, which `mine --limit` published: for readers of a
    run, which see them as long as the shards are not done. Whoever mines has none.
    """

    root: Path
    begun: frozenset[str] = frozenset()

    @property
    def manifest(self) -> Path:
        """run.json: what was requested."""
        return self.root / "run.json"

    @property
    def maps(self) -> Path:
        """The folder of HDF5 files, one per shard."""
        return self.root / "maps"

    @property
    def metadata(self) -> Path:
        """The folder of Parquet files, one per shard. A shard is done when its file is there."""
        return self.root / "metadata"

    @property
    def first_images(self) -> Path:
        """The folder of both files of each shard of which only the first images are mined."""
        return self.root / "first-images"

    @property
    def logs(self) -> Path:
        """The folder of logs, with what became of each shard."""
        return self.root / "logs"

    @property
    def evaluation(self) -> Path:
        """The folder of `promptsg evaluate`, unless its --output names another."""
        return self.root / "evaluation"

    @property
    def lock(self) -> Path:
        """The lock file that is held while a shard's two files get their names."""
        return self.logs / ".publish.lock"

    def shard_maps(self, shard: str) -> Path:
        """maps/<shard>.h5"""
        return (self.first_images if shard in self.begun else self.maps) / f"{shard}.h5"

    def added_maps(self, number: int) -> Path:
        """maps-<number>: the folder of HDF5 files of maps that were added later; the first addition has number 2."""
        return self.root / f"maps-{number}"

    def shard_added(self, shard: str, number: int) -> Path:
        """maps-<number>/<shard>.h5"""
        return self.added_maps(number) / f"{shard}.h5"

    def added_folders(self) -> list[Path]:
        """The folders of added maps that are there."""
        if not self.root.is_dir():
            return []
        with os.scandir(self.root) as entries:
            names = sorted(entry.name for entry in entries if _ADDED.fullmatch(entry.name) and entry.is_dir())
        return [self.root / name for name in names]

    def shard_metadata(self, shard: str) -> Path:
        """metadata/<shard>.parquet"""
        return (self.first_images if shard in self.begun else self.metadata) / f"{shard}.parquet"

    def reading_begun(self) -> RunLayout:
        """The layout for readers, who see the first images of the shards that are not done."""
        _, begun = self.done_and_begun()
        return replace(self, begun=frozenset(begun))

    def done_and_begun(self) -> tuple[set[str], set[str]]:
        """Names of the shards that are done, and of the others of which the first images are mined.

        While another process mines, each shard that had files at the start is in one of the two.
        """
        begun = _published_in(self.first_images)  # before the other folder: a shard may become done in between
        done = self.done()
        return done, begun - done

    def done(self) -> set[str]:
        """Names of the shards whose metadata is published. Lists one folder once."""
        return _published_in(self.metadata)


def _published_in(folder: Path) -> set[str]:
    """Names of the shards whose metadata is in a folder."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        files = [entry.name for entry in entries if entry.name.endswith(".parquet") and not entry.is_dir()]
    return {name for file in files if is_file_name(name := file.removesuffix(".parquet"))}
