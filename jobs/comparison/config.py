"""What `promptsg diff` compares: the configuration (no numpy, no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DiffConfig:
    """Which two runs are compared over which images, and where the results go.

    by: columns of run A's metadata, or SQL expressions over one row, each with an optional `AS name`. where: an SQL
    condition over run A's rows. evaluation: the folder of A's `promptsg evaluate` whose ap and first_rank both may
    name; None is RUN_A/evaluation. maps: names that both runs have; () is all of them. output: a folder; None is
    RUN_B/diff. changed: how many of the most changed images are listed. resamples, seed: of the bootstrap. memory: most
    bytes that ranking a run may use, where it was not evaluated.
    """

    run_a: Path
    run_b: Path
    by: tuple[str, ...] = ()
    where: str | None = None
    evaluation: Path | None = None
    maps: tuple[str, ...] = ()
    output: Path | None = None
    changed: int = 1000
    resamples: int = 1000
    seed: int = 0
    memory: int = 2_000_000_000

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.output or self.run_b / "diff"
