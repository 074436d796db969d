"""`promptsg verify`: reads every byte of a run again and says what is not as it was written (no torch)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import h5py
import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from cam.names import MapName
from jobs.atomic import sha256_of
from jobs.errors import EXIT_ERROR, EXIT_OK, EXIT_SOME_SHARDS_FAILED
from jobs.runs.manifest import Manifest
from jobs.runs.maps_file import FEATURES, HEADS, KEY, MAPS
from jobs.runs.run import open_run
from jobs.shards.samples import KEPT, OK

_SLICE = 4096  # rows of a map read at a time


@dataclass(kw_only=True)
class Verdict:
    """What was found: shards whose every byte is right, what is wrong in the others, and what is not there."""

    root: str
    shards: int
    intact: int
    images: int
    problems: list[str]
    missing: list[str]

    @property
    def exit_status(self) -> int:
        """0 whole and right, 1 damaged, 3 right as far as it goes."""
        if self.problems:
            return EXIT_ERROR
        return EXIT_SOME_SHARDS_FAILED if self.missing else EXIT_OK


def verify(root: Path, show_progress: bool | None = False) -> Verdict:
    """Checks every published shard: hashes, checksums, counts, keys, values. Raises UserError if `root` is no run."""
    run = open_run(root)
    names = [shard.name for shard in run.manifest.shards]
    done = run.layout.done()
    verdict = Verdict(
        root=str(root),
        shards=len(names),
        intact=0,
        images=0,
        problems=[f"{name}: is not in run.json" for name in sorted(done - set(names))],
        missing=[name for name in names if name not in done],
    )
    for name in tqdm([name for name in names if name in done], unit=" shards", disable=not show_progress):
        maps, metadata = run.layout.shard_maps(name), run.layout.shard_metadata(name)
        try:
            problems = list(_check_shard(name, maps, metadata, run.manifest))
            verdict.images += pq.read_metadata(metadata).num_rows
        except (OSError, ValueError, KeyError, RuntimeError) as error:  # what h5py and pyarrow say of damaged files
            problems = [f"{name}: unreadable: {' '.join(str(error).split())}"]
        verdict.problems += problems
        verdict.intact += not problems
    return verdict


def _check_shard(name: str, maps: Path, metadata: Path, manifest: Manifest) -> Iterator[str]:
    table = pq.read_table(metadata, page_checksum_verification=True)
    if not table.schema.equals(manifest.columns):
        yield f"{name}: {metadata.name} has other columns than the run"
        return
    facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if facts.get("promptsg.fingerprint") != manifest.fingerprint:
        yield f"{name}: was made by another run (fingerprint {facts.get('promptsg.fingerprint')})"
    if not maps.exists():
        yield f"{name}: {maps} is gone"
        return
    size, wanted = maps.stat().st_size, int(facts["promptsg.h5_size"])
    if size != wanted:
        yield f"{name}: {maps.name} has {size} bytes, {wanted} were written"
        return
    if sha256_of(maps) != facts["promptsg.h5_sha256"]:
        yield f"{name}: {maps.name} has other bytes than were written (SHA-256 differs)"
        return
    rows = table.select(["key", "h5_row", "status", "shard", "tar_index"]).to_pylist()
    yield from _check_rows(name, rows, facts)
    with h5py.File(maps, "r", locking=False) as file:
        yield from _check_maps(name, file, rows, manifest)


def _check_rows(name: str, rows: list[dict], facts: dict[str, str]) -> Iterator[str]:
    kept = [row for row in rows if row["h5_row"] is not None]
    if [row["h5_row"] for row in kept] != list(range(len(kept))):
        yield f"{name}: h5_row does not rise from 0 without a gap"
    if [row["tar_index"] for row in rows] != list(range(len(rows))):
        yield f"{name}: tar_index does not rise from 0 without a gap"
    if len(kept) != int(facts["promptsg.images"]):
        yield f"{name}: {len(kept)} rows with maps, the footer counts {facts['promptsg.images']}"
    if wrong := sum((row["status"] in KEPT) != (row["h5_row"] is not None) for row in rows):
        yield f"{name}: {wrong} rows whose status and h5_row contradict each other"
    if sum(json.loads(facts["promptsg.failed"]).values()) != len(rows) - len(kept):
        yield f"{name}: the footer counts other failures than the rows"
    if any(row["shard"] != name for row in rows):
        yield f"{name}: has rows of another shard"


def _check_maps(name: str, file: h5py.File, rows: list[dict], manifest: Manifest) -> Iterator[str]:
    """Reading compares each chunk with its checksum; keys and values are looked at besides."""
    kept = [row for row in rows if row["h5_row"] is not None]
    if [key.decode() for key in file[KEY][:]] != [row["key"] for row in kept]:
        yield f"{name}: the keys of maps and metadata differ"
    if not kept:
        return
    whole = np.array([row["status"] == OK for row in kept])
    extra = [f"{MAPS}/{HEADS}"] if manifest.has_heads else []
    for dataset in [FEATURES, *extra, *(f"{MAPS}/{map_name}" for map_name in manifest.maps)]:
        values = file[dataset]
        if len(values) != len(kept):
            yield f"{name}: {dataset} has {len(values)} rows instead of {len(kept)}"
            continue
        map_name = dataset.removeprefix(f"{MAPS}/")
        partial = map_name in manifest.maps and MapName.parse(map_name).needs_target
        for start in range(0, len(kept), _SLICE):
            part = values[start : start + _SLICE].reshape(len(kept[start : start + _SLICE]), -1)
            expected = whole[start : start + _SLICE] | (not partial)
            if not (np.isfinite(part).all(axis=1) == expected).all():
                yield f"{name}: {dataset} has values that are not finite, or has a map where there is no target"
                break


@click.command(name="verify", short_help="Read a whole run again and check every byte.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(run: Path, as_json: bool) -> None:
    """Read every file of RUN again: hashes, checksums, counts, keys, values.

    \b
    Example:
      promptsg verify RUN

    Exit status: 0 whole and right, 1 damaged (each damage is named), 3 right but not finished.
    """
    verdict = verify(run, show_progress=sys.stderr.isatty())
    if as_json:
        click.echo(json.dumps(asdict(verdict), indent=1, ensure_ascii=False))
    else:
        click.echo(f"{verdict.root}: {verdict.intact} of {verdict.shards} shards are intact, {verdict.images} rows")
        for problem in verdict.problems:
            click.echo(f"damaged: {problem}", err=True)
        if verdict.missing:
            click.echo(f"{len(verdict.missing)} shards are not done yet, such as {verdict.missing[0]}")
        if verdict.problems:
            click.echo("to redo a damaged shard, delete its file in metadata/ and run the same `promptsg mine` again")
    sys.exit(verdict.exit_status)
