"""Where the files are inside a run's folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from jobs.shards.names import is_file_name

_ADDED = re.compile(r"maps-[2-9]|maps-[1-9][0-9]+")


@dataclass(frozen=True)
class RunLayout:
    """Paths of one run. Only `done` and `added_folders` read the disk, and nothing is created."""

    root: Path

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
        return self.maps / f"{shard}.h5"

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
        return self.metadata / f"{shard}.parquet"

    def done(self) -> set[str]:
        """Names of the shards whose metadata is published. Lists one folder once."""
        if not self.metadata.is_dir():
            return set()
        with os.scandir(self.metadata) as entries:
            files = [entry.name for entry in entries if entry.name.endswith(".parquet") and not entry.is_dir()]
        return {name for file in files if is_file_name(name := file.removesuffix(".parquet"))}
