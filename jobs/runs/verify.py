"""Reads every byte of a run again, and says what is not as it was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from jobs.errors import EXIT_ERROR, EXIT_OK, EXIT_SOME_SHARDS_FAILED
from jobs.runs.run import open_run
from jobs.runs.shard_check import check_shard


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found in a run of `shards` shards.

    `intact` shards have no problem. `images` are the rows of the metadata that can be read. `problems` are lines that
    name the shard. `missing` are the shards that are not done.
    """

    root: str
    shards: int
    intact: int
    images: int
    problems: list[str]
    missing: list[str]

    @property
    def exit_status(self) -> int:
        """0: all shards are intact. 1: some are damaged. 3: none is damaged, but some are missing."""
        if self.problems:
            return EXIT_ERROR
        return EXIT_SOME_SHARDS_FAILED if self.missing else EXIT_OK


def verify(run: str | Path, *, show_progress: bool = False) -> Verdict:
    """Checks every published shard: hashes, checksums, counts, keys and values. Raises UserError if it is not a run."""
    opened = open_run(run)
    names = [shard.name for shard in opened.manifest.shards]
    published = opened.layout.done()
    done = [name for name in names if name in published]
    checks = [
        check_shard(name, opened.layout, opened.manifest)
        for name in tqdm(done, unit=" shards", disable=not show_progress)
    ]
    unlisted = [f"{name}: is not in run.json" for name in sorted(published.difference(names))]
    return Verdict(
        root=str(run),
        shards=len(names),
        intact=sum(not check.problems for check in checks),
        images=sum(check.rows for check in checks),
        problems=[*unlisted, *(problem for check in checks for problem in check.problems)],
        missing=[name for name in names if name not in published],
    )
