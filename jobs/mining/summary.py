"""What mining did: the counts over all shards, and what the run has afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.errors import EXIT_DRAINED, EXIT_OK, EXIT_SOME_SHARDS_FAILED
from jobs.runs.events import ShardReport


@dataclass(frozen=True, kw_only=True)
class MiningSummary:
    """What one process did, and the state of its block of shards afterwards.

    Of the shards that this process drew: `shards` were published, with `images` rows that have maps, `failed_images`
    rows without any and `partial_images` rows that lack only the maps of the target; `zero_maps` maps are zero
    everywhere; `passed_over` counts, by kind, the members of the tars of which nothing was made; `done_again` images
    were computed in fp32, since their numbers were not finite in the run's precision. `failed_shards` has the report of
    each shard that failed. `drained` says why the process stopped before the end, or is None.

    `done` of the `total` shards of the block are done in `run`. `nothing_to_do` says that they all were before.
    Where maps were added to shards that are done, `added_maps` are these, `done` counts the shards that have them,
    and `not_mined` those that cannot have them, since they are not mined yet.
    Where there was a `limit` on the images of the run, `first_of` maps the shard of which only the first images were
    mined to their number: it is not done. `met_limit` says that the limit ended the work before all was done.
    `has_queries` says that the shards have the splits that retrieval is evaluated on.
    `deleted` names what `overwrite` has deleted. `seconds` is the time for everything, `seconds_model` the part of the
    model.

    `exit_status` is the status to end the process with. Under torchrun it can differ from `own_status`: the last rank
    to leave answers for all.
    """

    run: Path
    done: int = 0
    total: int = 0
    nothing_to_do: bool = False
    added_maps: tuple[str, ...] = ()
    not_mined: int = 0
    limit: int | None = None
    met_limit: bool = False
    first_of: Mapping[str, int] = field(default_factory=dict)
    has_queries: bool = False
    deleted: tuple[str, ...] = ()
    shards: int = 0
    images: int = 0
    failed_images: int = 0
    partial_images: int = 0
    zero_maps: int = 0
    passed_over: Mapping[str, int] = field(default_factory=dict)
    done_again: int = 0
    failed_shards: tuple[ShardReport, ...] = ()
    drained: str | None = None
    seconds: float = 0.0
    seconds_model: float = 0.0
    exit_status: int = EXIT_OK

    @property
    def rows(self) -> int:
        """The images that were mined, those that failed included."""
        return self.images + self.failed_images

    @property
    def own_status(self) -> int:
        """The exit status for what this process did: 0 for all done, 75 for drained.

        3 for shards that failed, or that could get no maps since they are not mined.
        """
        if self.drained is not None:
            return EXIT_DRAINED
        return EXIT_SOME_SHARDS_FAILED if self.failed_shards or self.not_mined else EXIT_OK

    def plus(self, report: ShardReport) -> MiningSummary:
        """The summary with one more shard."""
        seconds = self.seconds_model + report.seconds_model
        if report.error is not None:
            return replace(self, failed_shards=(*self.failed_shards, report), seconds_model=seconds)
        return replace(
            self,
            shards=self.shards + (not report.only_first),
            first_of={**self.first_of, report.shard: report.rows} if report.only_first else self.first_of,
            images=self.images + report.images,
            failed_images=self.failed_images + report.failed_images,
            partial_images=self.partial_images + _total(report.partial),
            zero_maps=self.zero_maps + _total(report.zero_maps),
            passed_over=Counter(self.passed_over) + Counter(report.passed_over),
            done_again=self.done_again + report.done_again,
            seconds_model=seconds,
        )


def _total(counts: Mapping[str, int]) -> int:
    return sum(counts.values())
