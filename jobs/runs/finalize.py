"""Joins the metadata of a finished run into one sorted metadata.parquet, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.atomic import StagedFile
from jobs.errors import UserError
from jobs.leftovers import remove_leftovers, scratch_folder
from jobs.phrases import counted, one_line
from jobs.progress import LongTask
from jobs.runs.integrity.seal import KEY as SEAL
from jobs.runs.integrity.seal import UNSEALED, seal
from jobs.runs.query import warn_of_incomplete_maps
from jobs.runs.run import Run, open_run
from jobs.system_errors import reason_of

ORDER = ("pid", "camid", "key", "shard", "tar_index")  # the last two make the order of equal rows definite
JOINED = "metadata.parquet"
FINGERPRINT = "promptsg.fingerprint"  # of its key-value metadata
_ROWS_AT_A_TIME = 50_000
_MEMORY = "768MB"


class UnfinishedRunError(UserError):
    """A run has shards that are not done: `missing`, in the order of run.json, of `shards` in all."""

    def __init__(self, root: Path, missing: Sequence[str], shards: int) -> None:
        self.missing, self.shards = tuple(missing), shards
        super().__init__(
            f"{root}: {len(missing)} of {counted(shards, 'shard is', 'shards are')} not done, such as {missing[0]}"
        )


@dataclass(frozen=True, kw_only=True)
class JoinedMetadata:
    """The file with all `rows` of a run's `shards` shards."""

    path: Path
    rows: int
    shards: int


def finalize(run: str | Path, *, memory: str = _MEMORY) -> JoinedMetadata:
    """Writes RUN/metadata.parquet atomically, and says what is in it.

    `memory` is what the sort may take, as DuckDB reads it; beyond that it uses the disk, in RUN/logs.

    Maps that were not added to all shards yet are left out, with a warning. Raises UnfinishedRunError if a shard is not
    done, and UserError if a file is not its shard's or the result cannot be written.
    """
    opened = open_run(run)
    names = [shard.name for shard in opened.manifest.shards]
    done = set(opened.published()) - opened.layout.begun
    if missing := [name for name in names if name not in done]:
        raise UnfinishedRunError(opened.layout.root, missing, len(names))
    paths = [opened.layout.shard_metadata(name) for name in names]
    warn_of_incomplete_maps(opened)
    expected = sum(footer.rows for footer in opened.footers.all_of(names))
    remove_leftovers(opened.layout.root)
    final = opened.layout.root / JOINED
    try:
        with scratch_folder(opened.layout.logs, "sort") as spill:
            _write(
                final,
                _sorted(paths, opened.schema, memory, spill, by_name=bool(opened.manifest.additions)),
                _schema_of(opened),
                expected,
            )
    except (OSError, duckdb.Error) as error:
        if isinstance(error, duckdb.Error):
            opened.refuse_damaged(names)
        reason = reason_of(error) if isinstance(error, OSError) else one_line(error)
        raise UserError(f"cannot write {final}: {reason}") from error
    return JoinedMetadata(path=final, rows=expected, shards=len(names))


def _schema_of(run: Run) -> pa.Schema:
    """The columns of the run, with its fingerprint."""
    return run.schema.with_metadata({FINGERPRINT: run.fingerprint, SEAL: UNSEALED})


def _sorted(
    paths: Sequence[Path], schema: pa.Schema, memory: str, spill: Path, *, by_name: bool
) -> pa.RecordBatchReader:
    """All rows in order, batch by batch, in the columns of `schema`. With `by_name` the files may have further ones."""
    if not paths:
        return pa.RecordBatchReader.from_batches(schema, [])
    connection = duckdb.connect(
        config={"memory_limit": memory, "temp_directory": str(spill), "threads": 2, "preserve_insertion_order": False}
    )
    connection.execute("SET enable_progress_bar = false")
    columns = ", ".join(f'"{name}"' for name in schema.names)
    order = ", ".join(f"{name} NULLS LAST" for name in ORDER)
    query = f"SELECT {columns} FROM read_parquet(?, union_by_name = {str(by_name).lower()}) ORDER BY {order}"
    found = connection.sql(query, params=[[str(path) for path in paths]]).to_arrow_reader(_ROWS_AT_A_TIME)
    batches = (pa.RecordBatch.from_arrays(batch.cast(schema).columns, schema=schema) for batch in found)
    return pa.RecordBatchReader.from_batches(schema, batches)


def _write(final: Path, batches: pa.RecordBatchReader, schema: pa.Schema, expected: int) -> None:
    """Publishes the batches as one file. Raises UserError if they have not as many rows as expected."""
    rows = 0
    with StagedFile(final) as staged:
        with (
            LongTask("sorting the rows", expected, "row") as task,
            pq.ParquetWriter(staged.file, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
                rows += len(batch)
                task.advance(len(batch))
        seal(staged.file)
        staged.sync()
        if rows != expected or pq.read_metadata(staged.path).num_rows != expected:
            raise UserError(f"{final}: {counted(rows, 'row')} came out of {expected}; is the run still being written?")
        staged.publish()
