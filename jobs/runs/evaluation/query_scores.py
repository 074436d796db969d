"""`ap` and `first_rank` as columns of a run's metadata, from the queries.parquet that `promptsg evaluate` wrote.

They are read only where an expression names them. Rows that were no query have NULL. queries.parquet says which state
of which run it is about, so that scores of other features are refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UserError
from jobs.phrases import counted
from jobs.reading import reading
from jobs.runs.query_list import QUERIES

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.runs.run import Run

logger = logging.getLogger(__name__)

AP, FIRST_RANK = "ap", "first_rank"
SCORES = (AP, FIRST_RANK)
FIRST_HIT_RANK = "first_hit_rank"  # the name of first_rank in queries.parquet
ROW = ("shard", "key", "h5_row")  # what tells a row of the metadata, and is in queries.parquet too
_STORED = (*ROW, AP, FIRST_HIT_RANK)
_WHAT, _REMEDY = "queries of `promptsg evaluate`", "run `promptsg evaluate` again"
_EVALUATED = b"promptsg.evaluated"  # in the metadata of the schema of queries.parquet
# Texts and comments of SQL, in which a name is no column.
_NOT_CODE = re.compile(r"'(?:[^']|'')*'|\$\$.*?\$\$|--[^\n]*|/\*.*?\*/", re.DOTALL)
_NAMES = re.compile(rf"\b(?:{'|'.join(SCORES)})\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class EvaluatedState:
    """Which features of which run were ranked: the run's fingerprint, and all shards with images by their HDF5 files.

    These are the done shards, and those of which the first images are there.
    """

    fingerprint: str
    shards: int
    features: str

    @classmethod
    def of(cls, run: Run) -> EvaluatedState:
        """The state that the run has now. Raises UserError naming a metadata file that is damaged."""
        return run.reading_again(lambda: cls._now(run))

    @classmethod
    def _now(cls, run: Run) -> EvaluatedState:
        run.metadata_files()  # forgets the footers of files that have changed
        names, digest = run.published(), hashlib.sha256()
        for name, footer in zip(names, run.footers.all_of(names), strict=True):
            digest.update(f"{name} {footer.h5_sha256}\n".encode())
        return cls(fingerprint=run.manifest.fingerprint, shards=len(names), features=digest.hexdigest())

    def as_metadata(self) -> dict[bytes, bytes]:
        """The metadata of the schema of queries.parquet."""
        return {_EVALUATED: json.dumps(asdict(self)).encode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None) -> EvaluatedState | None:
        """Reads it back; None where an earlier version of the program wrote the file."""
        found = (metadata or {}).get(_EVALUATED)
        return None if found is None else cls(**json.loads(found))


def names_scores(expressions: Iterable[str | None]) -> bool:
    """Whether one of these SQL expressions names `ap` or `first_rank`."""
    return any(_NAMES.search(_NOT_CODE.sub(" ", text)) for text in expressions if text)


def queries_file(run: Run) -> Path:
    """The queries.parquet that the run's scores are read from."""
    return run.evaluation if run.evaluation.suffix == ".parquet" else run.evaluation / QUERIES


def scores_digest(run: Run, expressions: Iterable[str | None]) -> str:
    """The SHA-256 of the file that the expressions depend on; empty where they name no score.

    Raises UserError where the file cannot be read, as `read_scores`.
    """
    if not names_scores(expressions):
        return ""
    path = _existing_file(run)
    with reading(path, _WHAT, _REMEDY):
        return hashlib.sha256(path.read_bytes()).hexdigest()


def read_scores(run: Run) -> pa.Table:
    """shard, key, h5_row, ap and first_rank of each query.

    Raises UserError, on one line, where the run was not evaluated, or has changed since then, and where the file is
    damaged or has a row twice.
    """
    import pyarrow.parquet as pq

    path = _existing_file(run)
    with reading(path, _WHAT, _REMEDY):
        file = pq.ParquetFile(path)
        if missing := [name for name in _STORED if name not in file.schema_arrow.names]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        table = file.read(columns=list(_STORED)).select(_STORED).rename_columns([*ROW, *SCORES])
        _refuse_repeated(table)
    check_state(run, path)
    return table.replace_schema_metadata(None)


def _existing_file(run: Run) -> Path:
    """As `queries_file`. Raises UserError with the command that writes it where it is not there."""
    path = queries_file(run)
    if not path.is_file():
        raise UserError(
            f"ap and first_rank come from `promptsg evaluate {run.layout.root}`: run it first, since there is no "
            f"{path}. For results in another folder give --evaluation FOLDER"
        )
    return path


def _refuse_repeated(table: pa.Table) -> None:
    """Raises ValueError where a query is there twice: a join would repeat the rows of the metadata."""
    import pyarrow.compute as pc

    counts = table.group_by(list(ROW)).aggregate([([], "count_all")])
    if len(counts) < len(table):
        repeated = counts.filter(pc.field("count_all") > 1).slice(0, 1).to_pylist()[0]
        raise ValueError(f"it has the query {repeated['key']!r} of {repeated['shard']!r} {repeated['count_all']} times")


def known_scores(run: Run) -> pa.Table | None:
    """As `read_scores`, for those who did not ask: None where there are none, with a warning where they are old."""
    if not queries_file(run).is_file():
        return None
    try:
        return read_scores(run)
    except UserError as error:
        logger.warning("average precision is not shown: %s", error)
        return None


def with_scores(rows: pa.Table, scores: pa.Table | None, columns: Sequence[str] = SCORES) -> pa.Table:
    """Rows of the metadata, with shard, key and h5_row, and these columns of the scores; NULL for other rows."""
    import pyarrow as pa

    if scores is None:
        absent = {AP: pa.float64(), FIRST_RANK: pa.int64()}
        for name in columns:
            rows = rows.append_column(name, pa.nulls(len(rows), absent[name]))
        return rows
    places = rows.select(ROW).append_column("place", pa.array(range(len(rows)), pa.int64()))
    scores = scores.cast(pa.schema([*(places.schema.field(name) for name in ROW), *map(scores.schema.field, SCORES)]))
    found = places.join(scores, list(ROW), join_type="left outer").sort_by("place")
    for name in columns:
        rows = rows.append_column(name, found[name])
    return rows


def stored_state(path: Path) -> EvaluatedState | None:
    """What a queries.parquet is about; None where an earlier version wrote it. Raises UserError if it is damaged."""
    import pyarrow.parquet as pq

    with reading(path, _WHAT, _REMEDY):
        return EvaluatedState.from_metadata(pq.ParquetFile(path).schema_arrow.metadata)


def check_state(run: Run, path: Path) -> None:
    """Raises UserError where the scores in queries.parquet are not of the run as it is now.

    Warns where they do not say what they are of.
    """
    state = stored_state(path)
    root, again = run.layout.root, f"run `promptsg evaluate {run.layout.root}` again"
    if state is None:
        logger.warning("%s does not say which shards it is about; if %s has changed since, %s", path, root, again)
        return
    now = EvaluatedState.of(run)
    if state.fingerprint != now.fingerprint:
        raise UserError(f"{path} is of another run than {root}: {again}, or give --evaluation FOLDER")
    if state.shards != now.shards:
        there = f"{counted(now.shards, 'shard')} with images and had {state.shards:,} then"
        raise UserError(f"{path} is older than {root}, which has {there}: {again}")
    if state != now:
        raise UserError(
            f"{path} is older than {root}, of which shards were completed or mined anew since then: {again}"
        )
