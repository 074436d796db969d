"""Reads every byte of a run again, and says what is not as it was written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import EXIT_ERROR, EXIT_OK, EXIT_SOME_SHARDS_FAILED, UserError
from jobs.phrases import counted, one_line, shown
from jobs.progress import tracked
from jobs.runs.finalize import FINGERPRINT, JOINED
from jobs.runs.footer import read_footer
from jobs.runs.integrity.seal import seal_problem
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.restart import as_it_is_now, changed_shards
from jobs.runs.run import Run, open_run
from jobs.runs.schema import GROWN_VERSION
from jobs.runs.shard_check import CheckedShard, check_shard
from jobs.shards.urls import Shard


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found in a run of `shards` shards.

    `intact` shards have no problem. `images` are the rows of the metadata that can be read. `problems` are lines that
    name the shard. `missing` are the shards that are not done. `changed` are lines that name the shards whose tars are
    no longer what was mined. `not_compared` counts the done shards whose tars could not be looked at: they are not
    local, are elsewhere now, or were mined by a version that kept no hash.
    """

    root: str
    shards: int
    intact: int
    images: int
    problems: list[str]
    missing: list[str]
    changed: list[str]
    not_compared: int

    @property
    def exit_status(self) -> int:
        """0: all shards are intact. 1: some are damaged or changed. 3: none is, but some are missing."""
        if self.problems or self.changed:
            return EXIT_ERROR
        return EXIT_SOME_SHARDS_FAILED if self.missing else EXIT_OK


def verify(run: str | Path, *, whole_tars: bool = False) -> Verdict:
    """Checks every published shard: hashes, checksums, counts, keys and values, and whether its tar is what was mined.

    Parts of each tar are compared, or with `whole_tars` all of it. Raises UserError if it is not a run.
    """
    opened = open_run(run)
    names = [shard.name for shard in opened.manifest.shards]
    layout = RunLayout(opened.layout.root)  # of done shards alone, also of one that was begun a moment ago
    published = layout.done()
    done = [name for name in names if name in published]
    checks = [check_shard(name, layout, opened.manifest) for name in tracked(done, "reading every byte", "shard")]
    reading = layout.reading_begun()
    begun = list(_check_first_images(reading, opened.manifest))
    tars = [
        _compare(shard, layout, whole=whole_tars)
        for shard in tracked(opened.manifest.shards, "comparing tars with what was mined", "tar")
        if shard.name in published
    ]
    first = [shard for shard in opened.manifest.shards if shard.name in reading.begun]
    compared_first = (_compare(shard, reading, whole=whole_tars) for shard in first)
    tars += [changes for changes in compared_first if changes is not None]
    there = published | reading.begun
    unlisted = [f"{shown(name)}: is not in run.json" for name in sorted(there.difference(names))]
    return Verdict(
        root=str(run),
        shards=len(names),
        intact=sum(check.is_intact for check in checks),
        images=sum(check.rows for check in checks),
        problems=[*_finalized_problems(opened), *unlisted, *_shard_problems(opened, [*checks, *begun])],
        missing=[name for name in names if name not in published],
        changed=[change for tar in tars for change in tar or ()],
        not_compared=tars.count(None),
    )


def _check_first_images(layout: RunLayout, manifest: Manifest) -> Iterator[CheckedShard]:
    """The checks of what `mine --limit` took: it is read as the shards are, and none of them counts as done."""
    names = [shard.name for shard in manifest.shards if shard.name in layout.begun]
    for name in tracked(names, "reading first images", "shard"):
        check = check_shard(name, layout, manifest)
        if check.is_intact or name not in layout.done():  # one that became done meanwhile needs no first images
            yield check


def _shard_problems(opened: Run, checks: Sequence[CheckedShard]) -> Iterator[str]:
    """What is wrong with the shards; where all are of one other run, that run.json is the wrong file is said once."""
    others = {check.another_run for check in checks}
    is_wrong_file = len(checks) > 1 and len(others) == 1 and None not in others
    if is_wrong_file:
        yield (
            f"{opened.layout.manifest} is not that of the {len(checks)} done shards, which were all made by another "
            f"run (fingerprint {others.pop()}); put the right file back"
        )
    for check in checks:
        if check.another_run and not is_wrong_file:
            yield f"{check.name}: was made by another run (fingerprint {check.another_run})"
        yield from check.problems


def _finalized_problems(opened: Run) -> Iterator[str]:
    """What is wrong with metadata.parquet, which `finalize` may have written."""
    joined = opened.layout.root / JOINED
    if not joined.exists():
        return
    try:
        problem = seal_problem(joined, required=False) or _joined_problem(joined, opened)
    except UserError:  # a shard's footer is damaged, which `check_shard` has said
        return
    except (OSError, ValueError, pa.ArrowException) as error:
        problem = f"{JOINED} is unreadable: {one_line(error)}"
    if problem:
        yield f"{problem}; write it again with `promptsg finalize`"


def _joined_problem(joined: Path, opened: Run) -> str | None:
    """How metadata.parquet differs from the rows of this run's shards, by its footer and the sums of its pages."""
    with pq.ParquetFile(joined, page_checksum_verification=True) as file:
        facts = file.schema_arrow.metadata or {}
        if facts.get(FINGERPRINT.encode(), b"").decode(errors="replace") != opened.fingerprint:
            before = " or before it grew" if opened.manifest.schema_version == GROWN_VERSION else ""
            return f"{JOINED} was made of another run{before}"
        written, rows = file.metadata.num_rows, sum(len(batch) for batch in file.iter_batches())
    return None if rows == written else f"{JOINED} has {counted(rows, 'row')}, {written} were written"


def _compare(shard: Shard, layout: RunLayout, *, whole: bool) -> tuple[str, ...] | None:
    """How the tar of a shard differs from what was mined; None where it cannot be compared."""
    now = as_it_is_now(shard)
    try:
        if now is None or read_footer(layout.shard_metadata(shard.name)).tar is None:
            return None
        changed = changed_shards(layout, [shard], [now], thorough=True, whole=whole)
        return tuple(f"{one.name}: {one.how}" for one in changed if one.how is not None)
    except UserError:  # the footer is damaged, which `check_shard` has said
        return None
