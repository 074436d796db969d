"""The state of a run: which shards and images are done, failed or missing, and how fast it goes."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.errors import EXIT_ERROR, EXIT_OK, UserError
from jobs.runs.events import read_events
from jobs.runs.footer import ShardFooter, read_facts, read_rows
from jobs.runs.growth.added_maps import AddedMaps, added_maps
from jobs.runs.integrity.belonging import check_pair, unlisted_problem
from jobs.runs.integrity.footers import look_at
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import read_manifest
from jobs.runs.presence.judge import WorkerStatus, workers_of
from jobs.runs.restart import ChangedShard, as_it_is_now, changed_shards
from jobs.runs.speed import speed_of
from jobs.shards.samples import KEPT
from jobs.shards.urls import Shard

SHARD_FAILED = "shard_failed"
METADATA_DAMAGED = "metadata_damaged"
MAPS_DAMAGED = "maps_damaged"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Counts over a run.

    Each shard is done, or failed (its name, and why its last attempt failed), or missing. `damaged` are done shards,
    and first images, whose metadata cannot be read, whose maps are missing or cut, or whose files are another's, and
    Parquet files that are no shard's: their names, and an error with the file and what to do. `images` have maps.
    `failed_images` counts those without maps by reason. `partial_images` counts, by reason, those that lack only the
    target's maps. `zero_maps` counts the maps that are zero everywhere, by name, and `done_again` the images that were
    computed in fp32, since their numbers were not finite in the run's precision. `added` are the maps that were added
    later, and on how many of the done shards they are. `begun` counts the images of shards of which `mine --limit` took
    only the first: these shards are not done, and the images are not among `images`. `changed` has the shards
    whose tars are no longer what was mined, and how they differ; `rewritten` those that were written again and are the
    same as far as they were compared.

    `rate` is in images per second, all workers together, lately. `seconds_left` is the time that the rest takes at that
    rate. `idle` is the number of seconds since the last shard ended. None means unknown. `workers` are the processes
    that work on it, and the last ones that did; runs of earlier versions have none.
    """

    root: str
    shards: int
    done: int
    failed: dict[str, str]
    missing: list[str]
    images: int
    damaged: dict[str, str] = field(default_factory=dict)
    failed_images: dict[str, int] = field(default_factory=dict)
    partial_images: dict[str, int] = field(default_factory=dict)
    zero_maps: dict[str, int] = field(default_factory=dict)
    done_again: int = 0
    added: list[AddedMaps] = field(default_factory=list)
    begun: dict[str, int] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    rewritten: list[str] = field(default_factory=list)
    rate: float | None = None
    seconds_left: float | None = None
    idle: float | None = None
    workers: list[WorkerStatus] = field(default_factory=list)

    @property
    def is_running(self) -> bool:
        """Whether a worker gives signs of life."""
        return any(worker.state == "running" for worker in self.workers)

    @property
    def exit_status(self) -> int:
        """1 where files are damaged, else 0: a run that is not finished is no error."""
        return EXIT_ERROR if self.damaged else EXIT_OK


@dataclass(frozen=True, kw_only=True)
class FailedInput:
    """A failed or damaged shard, whose `input` is its address, or a failed image, whose `input` is `address#key`."""

    shard: str
    input: str
    status: str
    error: str | None


def status(run: str | Path) -> RunStatus:
    """The state of a run. Raises UserError if the folder is not a run.

    A shard is done if its files are published. The counts come from the footer of each shard's metadata.
    """
    layout = RunLayout(Path(run))
    manifest = read_manifest(layout)
    shards = manifest.shards
    published, begun = layout.done_and_begun()
    reading = replace(layout, begun=frozenset(begun))
    done = [shard for shard in shards if shard.name in published]
    undone = {shard.name: shard for shard in shards if shard.name not in published}
    events = read_events(layout.logs)
    errors = {event.shard: event.error for event in events if event.error is not None}
    footers, damaged = _footers_of(layout, manifest.fingerprint, [shard.name for shard in done])
    unlisted = sorted(published.difference(shard.name for shard in shards))
    damaged |= {name: unlisted_problem(layout, name) for name in unlisted}
    first_images, damaged_first = _first_images(reading, manifest.fingerprint)
    first_of = [shard for name, shard in undone.items() if name in reading.begun]
    changed = _changed(layout, done) + _changed(reading, first_of)
    now = time.time()
    speed = speed_of(events, done, list(undone.values()), now)
    return RunStatus(
        root=str(run),
        shards=len(shards),
        done=len(done),
        failed={name: error for name, error in errors.items() if name in undone},
        missing=[name for name in undone if name not in errors],
        damaged=damaged | damaged_first,
        images=sum(footer.images for footer in footers),
        failed_images=_total([footer.failed for footer in footers]),
        partial_images=_total([footer.partial for footer in footers]),
        zero_maps={name: count for name, count in _total([footer.zero_maps for footer in footers]).items() if count},
        done_again=sum(footer.done_again for footer in footers),
        added=list(added_maps(manifest, footers)),
        begun=first_images,
        changed={one.name: one.how for one in changed if one.how is not None},
        rewritten=[one.name for one in changed if one.how is None],
        rate=speed.rate,
        seconds_left=speed.seconds_left,
        idle=speed.idle,
        workers=workers_of(layout.logs, now),
    )


def _first_images(layout: RunLayout, fingerprint: str) -> tuple[dict[str, int], dict[str, str]]:
    """The images with maps of each shard of which only the first are mined, and the error of each that is damaged."""
    footers, damaged = _footers_of(layout, fingerprint, sorted(layout.begun))
    done = layout.done() if damaged else set()  # one that became done meanwhile needs no first images
    errors = {n: error for n, error in damaged.items() if n not in done and layout.shard_metadata(n).exists()}
    return {footer.shard: footer.images for footer in footers}, errors


def failed_inputs(status: RunStatus) -> Iterator[FailedInput]:
    """First each failed shard of a run, then each failed image of the shards that are done, and each damaged shard."""
    layout = RunLayout(Path(status.root))
    done = layout.done()
    urls = {shard.name: shard.url for shard in read_manifest(layout).shards}
    for name, error in status.failed.items():
        yield FailedInput(shard=name, input=urls[name], status=SHARD_FAILED, error=error)
    for name in sorted(done):
        yield from _failed_or_damaged(layout, name, urls.get(name), status.damaged.get(name))
    of_first_images = replace(layout, begun=frozenset(status.damaged.keys() - done))
    for name in sorted(of_first_images.begun):
        yield _damaged(of_first_images, name, urls.get(name), status.damaged[name])


def _failed_or_damaged(layout: RunLayout, shard: str, url: str | None, damage: str | None) -> Iterator[FailedInput]:
    """The failed images of a done shard, and its damage. A Parquet file that is no shard's has no `url`."""
    path = layout.shard_metadata(shard)
    if url is not None:
        try:
            yield from list(_failed_images(path, shard, url))
        except UserError as error:
            damage = damage or str(error)
    if damage is not None:
        yield _damaged(layout, shard, url, damage)


def _damaged(layout: RunLayout, shard: str, url: str | None, damage: str) -> FailedInput:
    # Errors begin with the file that they are about.
    files = (layout.shard_maps(shard), *(folder / f"{shard}.h5" for folder in layout.added_folders()))
    kind = MAPS_DAMAGED if damage.startswith(tuple(map(str, files))) else METADATA_DAMAGED
    return FailedInput(shard=shard, input=url or str(layout.shard_metadata(shard)), status=kind, error=damage)


def _footers_of(layout: RunLayout, fingerprint: str, shards: Sequence[str]) -> tuple[list[ShardFooter], dict[str, str]]:
    """The footers of the shards whose files are whole, and the others with the error of each."""

    def look(name: str) -> ShardFooter | UserError:
        try:
            return check_pair(layout, name, fingerprint)
        except UserError as error:
            return error

    found = list(zip(shards, look_at(shards, look), strict=True))
    footers = [footer for _, footer in found if isinstance(footer, ShardFooter)]
    return footers, {name: str(error) for name, error in found if isinstance(error, UserError)}


def _changed(layout: RunLayout, done: list[Shard]) -> list[ChangedShard]:
    """The done or begun shards whose local tars changed, or may have. A damaged footer is left to `verify`."""
    found: list[ChangedShard] = []
    for shard in done:
        now = as_it_is_now(shard)
        with contextlib.suppress(UserError):
            found += changed_shards(layout, [shard], [now] if now else [])
    return found


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums of several counts, name by name."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def _failed_images(path: Path, shard: str, url: str) -> Iterator[FailedInput]:
    if not read_facts(path).failed:
        return
    for row in read_rows(path, ["key", "status", "error"]).to_pylist():
        if row["status"] not in KEPT:
            yield FailedInput(shard=shard, input=f"{url}#{row['key']}", status=row["status"], error=row["error"])
