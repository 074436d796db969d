"""What `promptsg localise` compares of which run: the configuration (no numpy, no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.shards.access import ShardAccess


@dataclass(frozen=True, kw_only=True)
class LocaliseConfig(ShardAccess):
    """Which maps of which images are compared with masks from where, and where the results go.

    masks: folders with `<key>.png`, the first that has the file counts; () takes `<key>.mask.png` of the shards.
    labels: a file of the labels' names. by, where, evaluation, maps: as of `promptsg stats`. queries: the
    queries.parquet of `promptsg evaluate`; None is the one in RUN/evaluation, if it is there. output: a folder; None
    is RUN/localise. resamples, seed: of the bootstrap.
    """

    run: Path
    masks: tuple[Path, ...] = ()
    labels: Path | None = None
    by: tuple[str, ...] = ()
    where: str | None = None
    evaluation: Path | None = None
    maps: tuple[str, ...] = ()
    queries: Path | None = None
    output: Path | None = None
    resamples: int = 1000
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.output or self.run / "localise"
