"""`promptsg finalize`: all rows of a finished run in one sorted metadata.parquet, in bounded memory (no torch)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.atomic import StagedFile, remove_leftovers
from jobs.errors import EXIT_OK, EXIT_SOME_SHARDS_FAILED, UserError
from jobs.runs.footer import read_footer
from jobs.runs.manifest import Manifest
from jobs.runs.run import Run, open_run

ORDER = ("pid", "camid", "key", "shard", "tar_index")  # the last two only make ties definite
_ROWS_AT_A_TIME = 50_000
_MEMORY = "768MB"
_SHOWN = 20


def missing_shards(run: Run) -> list[str]:
    """Shards of run.json that are not done, in its order."""
    done = run.layout.done()
    return [shard.name for shard in run.manifest.shards if shard.name not in done]


def finalize(run: Run, memory: str = _MEMORY) -> int:
    """Writes metadata.parquet, atomically, and returns its number of rows; the sort spills to the disk.

    Raises UserError for a shard that another run made, or that is not done.
    """
    if missing := missing_shards(run):
        raise UserError(f"{run.layout.root}: {len(missing)} shards are not done, such as {missing[0]}")
    paths = [run.layout.shard_metadata(shard.name) for shard in run.manifest.shards]
    expected = sum(_vouched(path, run.manifest) for path in paths)
    final = run.layout.root / "metadata.parquet"
    remove_leftovers(run.layout.root)
    schema = run.schema.with_metadata({"promptsg.fingerprint": run.manifest.fingerprint})
    try:
        rows = _merge(run, paths, final, schema, memory, expected)
    except (OSError, duckdb.Error) as error:
        raise UserError(f"cannot write {final}: {' '.join(str(error).split())}") from error
    return rows


def _merge(run: Run, paths: list[Path], final: Path, schema: pa.Schema, memory: str, expected: int) -> int:
    rows = 0
    with StagedFile(final) as staged, tempfile.TemporaryDirectory(dir=run.layout.logs, prefix=".sort.") as spill:
        with pq.ParquetWriter(staged.file, schema, compression="zstd", write_page_checksum=True) as writer:
            for batch in _sorted(paths, run.schema, memory, Path(spill)):
                writer.write_batch(batch)
                rows += len(batch)
        staged.sync()
        if rows != expected or pq.read_metadata(staged.path).num_rows != expected:
            raise UserError(f"{final}: {rows} rows came out of {expected}; is the run still being written?")
        staged.publish()
    return rows


def _vouched(path: Path, manifest: Manifest) -> int:
    """A shard's number of rows, from its footer, which must be of this run."""
    footer = read_footer(path)
    if footer.fingerprint != manifest.fingerprint:
        raise UserError(f"{path} was made by another run; `promptsg verify` tells more")
    return footer.rows


def _sorted(paths: list[Path], schema: pa.Schema, memory: str, spill: Path) -> pa.RecordBatchReader:
    """All rows in order, batch by batch, under the run's own schema."""
    if not paths:
        return pa.RecordBatchReader.from_batches(schema, [])
    connection = duckdb.connect(
        config={"memory_limit": memory, "temp_directory": str(spill), "threads": 2, "preserve_insertion_order": False}
    )
    connection.execute("SET enable_progress_bar = false")
    query = f"SELECT * FROM read_parquet(?) ORDER BY {', '.join(f'{name} NULLS LAST' for name in ORDER)}"
    found = connection.sql(query, params=[[str(path) for path in paths]]).to_arrow_reader(_ROWS_AT_A_TIME)
    batches = (pa.RecordBatch.from_arrays(b.cast(schema).columns, schema=schema) for b in found)
    return pa.RecordBatchReader.from_batches(schema, batches)


@click.command(name="finalize", short_help="Join the metadata of a finished run into one sorted file.")
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> None:
    """Check that every shard of RUN is done, then write RUN/metadata.parquet: all rows, sorted by pid, camid and key.

    \b
    Example:
      promptsg finalize RUN

    Exit status 3, with the list, if a shard is missing.
    """
    opened = open_run(run)
    if missing := missing_shards(opened):
        click.echo(f"{run}: {len(missing)} of {len(opened.manifest.shards)} shards are not done:", err=True)
        for name in missing[:_SHOWN]:
            click.echo(f"  {name}", err=True)
        if len(missing) > _SHOWN:
            click.echo(f"  ... and {len(missing) - _SHOWN} more; `promptsg status {run} --missing` has all", err=True)
        sys.exit(EXIT_SOME_SHARDS_FAILED)
    rows = finalize(opened)
    click.echo(f"{rows} rows of {len(opened.manifest.shards)} shards in {run / 'metadata.parquet'}")
    sys.exit(EXIT_OK)
