"""`promptsg status`: what of a run is done, failed or missing (no torch)."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from jobs.errors import EXIT_OK
from jobs.events import read_events
from jobs.layout import RunLayout
from jobs.manifest import read_manifest

_MANY = 10


@dataclass(frozen=True, kw_only=True)
class Status:
    """Counts over a run: `failed` maps a shard to why its last attempt failed; `missing` were never finished."""

    root: str
    shards: int
    done: int
    failed: dict[str, str]
    missing: list[str]
    images: int
    failed_images: dict[str, int] = field(default_factory=dict)
    partial_images: dict[str, int] = field(default_factory=dict)
    zero_maps: dict[str, int] = field(default_factory=dict)


def status_of(root: Path) -> Status:
    """The state of a run. Raises UserError if the folder is not one.

    What is done is told by the published files; the counts come from the event log, and from a file's own footer
    where the worker died before it could log.
    """
    layout = RunLayout(root)
    manifest = read_manifest(layout)
    names = [shard.name for shard in manifest.shards]
    done = layout.done() & set(names)
    failed: dict[str, str] = {}
    reports: dict[str, dict] = {}
    for event in read_events(layout.logs):
        if event.get("error") is None:
            reports[event["shard"]] = event
        else:
            failed[event["shard"]] = event["error"]
    failed = {name: error for name, error in failed.items() if name not in done}
    failed_images: Counter[str] = Counter()
    partial_images: Counter[str] = Counter()
    zero_maps: Counter[str] = Counter()
    images = 0
    for name in done:
        report = reports.get(name) or _from_footer(layout, name)
        images += report["images"]
        failed_images.update(report["failed"])
        partial_images.update(report.get("partial", {}))
        zero_maps.update(report["zero_maps"])
    return Status(
        root=str(root),
        shards=len(names),
        done=len(done),
        failed=failed,
        missing=[name for name in names if name not in done and name not in failed],
        images=images,
        failed_images=dict(failed_images),
        partial_images=dict(partial_images),
        zero_maps={name: count for name, count in zero_maps.items() if count},
    )


def _from_footer(layout: RunLayout, shard: str) -> dict:
    import pyarrow.parquet as pq

    facts = pq.read_schema(layout.shard_metadata(shard)).metadata
    return {
        "images": int(facts[b"promptsg.images"]),
        "failed": json.loads(facts[b"promptsg.failed"]),
        "partial": json.loads(facts[b"promptsg.partial"]),
        "zero_maps": json.loads(facts[b"promptsg.zero_maps"]),
    }


@click.command(name="status", short_help="Say what of a run is done, failed or missing.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(run: Path, as_json: bool) -> None:
    """Say what of RUN is done, failed or missing, and how many images failed for which reason.

    \b
    Example:
      promptsg status RUN
    """
    status = status_of(run)
    click.echo(json.dumps(asdict(status), indent=1, ensure_ascii=False) if as_json else _describe(status))
    sys.exit(EXIT_OK)


def _describe(status: Status) -> str:
    lines = [
        f"{status.root}: {status.done} of {status.shards} shards done, {len(status.failed)} failed, "
        f"{len(status.missing)} missing",
        f"{status.images} images with maps, {sum(status.failed_images.values())} failed",
    ]
    lines += [f"  {count} {reason}" for reason, count in sorted(status.failed_images.items())]
    lines += [f"  {count} {reason}: kept, without the target's maps" for reason, count in status.partial_images.items()]
    lines += [f"  {count} all-zero maps of {name}" for name, count in sorted(status.zero_maps.items())]
    shown = list(status.failed.items())[:_MANY]
    lines += [f"failed: {error}" for _, error in shown]
    if len(status.failed) > len(shown):
        lines.append(f"... and {len(status.failed) - len(shown)} more failed shards (--json lists them)")
    if status.done < status.shards:
        lines.append("the command that made the run goes on from here")
    return "\n".join(lines)
