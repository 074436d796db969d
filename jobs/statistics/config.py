"""What `promptsg stats` computes of which run: the configuration (no numpy, no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UserError


@dataclass(frozen=True)
class ShardBlock:
    """The block `index`, from 0, of `count` contiguous blocks of a run's shards."""

    index: int
    count: int


@dataclass(frozen=True, kw_only=True)
class StatsConfig:
    """What to compute of which run, and where the results go.

    by: columns or SQL expressions over one row, each with an optional `AS name`. where: an SQL condition that selects
    images. evaluation: the folder of `promptsg evaluate` whose ap and first_rank they may name; None is RUN/evaluation.
    maps: names; () is all of the run. output: a folder; None is RUN/stats. outliers: how many images to list.
    sample: about how many images are compared in pairs. resamples, seed: of the bootstrap; seed also of the sample.

    block: compute the sums of this block of shards only, and save them as a part. parts: files of such parts; their
    question is answered from them, so that by, where, maps and block must not be given.

    Raises UserError where both are.
    """

    run: Path
    by: tuple[str, ...] = ()
    where: str | None = None
    evaluation: Path | None = None
    maps: tuple[str, ...] = ()
    output: Path | None = None
    outliers: int = 50
    sample: int = 20_000
    resamples: int = 1000
    seed: int = 0
    block: ShardBlock | None = None
    parts: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.parts and (self.by or self.where is not None or self.maps or self.block):
            raise UserError("--merge takes the question from the parts: leave out --by, --where, --map and --block")

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.output or self.run / "stats"
