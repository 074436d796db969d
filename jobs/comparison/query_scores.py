"""Average precision per query of two runs: as `promptsg evaluate` wrote it, or ranked now as it does (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.progress import told
from jobs.reading import read_json_object, reading
from jobs.retrieval.evaluate import choose_sides, rank_sides
from jobs.retrieval.evaluation import EvaluateConfig, EvaluationFiles
from jobs.retrieval.report import queries_table
from jobs.retrieval.rerank import RerankConfig
from jobs.runs.evaluation.query_scores import EvaluatedState, stored_state
from jobs.runs.run import Run

_COLUMNS = ("shard", "key", "ap", "first_hit_rank")
_REMEDY = "remove it, or evaluate the run again"


@dataclass(frozen=True, kw_only=True)
class QueryScores:
    """One run's queries that have a match: shard, key, ap and first_hit_rank.

    `source` says where they are from: a folder of `promptsg evaluate`, or that they were ranked now.
    """

    table: pa.Table
    source: str


@dataclass(frozen=True, kw_only=True)
class BothScores:
    """Those of two runs, made with the same settings, which `settings` says."""

    a: QueryScores
    b: QueryScores
    settings: str

    @cached_property
    def joined(self) -> pa.Table:
        """shard, key, ap_a, first_hit_rank_a, ap_b, first_hit_rank_b of queries with a match in both, in A's order."""
        ids = ["shard", "key"]
        both = self.a.table.append_column("place", pa.array(range(len(self.a.table)), pa.int64()))
        both = both.join(self.b.table, ids, join_type="inner", left_suffix="_a", right_suffix="_b")
        return both.sort_by("place").drop_columns("place")


@told("ranking the gallery of both runs")
def scores_of_both(a: Run, b: Run, memory: int) -> BothScores:
    """Average precision of both runs under the same settings: those of A's evaluation, else of B's, else the defaults.

    Where a run was evaluated with these settings, and its shards are still those of then, the numbers are taken from
    its folder `evaluation`. Else it is ranked now, and nothing is written to it.

    Raises UserError where a run has nothing to rank, or ranking it needs more memory.
    """
    stored = [_stored(run) for run in (a, b)]
    settings = next((one for one in stored if one is not None), None) or EvaluateConfig(run=a.layout.root)
    first, second = (_scores(run, one, settings, memory) for run, one in zip((a, b), stored, strict=True))
    return BothScores(a=first, b=second, settings=_told(settings))


def _scores(run: Run, stored: EvaluateConfig | None, settings: EvaluateConfig, memory: int) -> QueryScores:
    wanted = replace(settings, run=run.layout.root, memory=memory)
    if stored is not None and replace(stored, memory=memory) == wanted:
        path = EvaluationFiles.in_folder(wanted.folder).queries
        with reading(path, "the queries of `promptsg evaluate`", _REMEDY):
            return _with_match(pq.read_table(path, columns=list(_COLUMNS)), str(wanted.folder))
    sides = choose_sides(run, wanted)
    ranking = rank_sides(run, sides, wanted).ranking
    return _with_match(queries_table(sides.queries, sides.gallery, ranking), "ranked now")


def _with_match(table: pa.Table, source: str) -> QueryScores:
    return QueryScores(table=table.filter(pc.is_valid(table["ap"])).select(list(_COLUMNS)), source=source)


def _stored(run: Run) -> EvaluateConfig | None:
    """The settings that the run was evaluated with; None where it was not, or its shards have changed since."""
    config = EvaluateConfig(run=run.layout.root)
    files = EvaluationFiles.in_folder(config.folder)
    if not files.metrics.is_file() or not files.queries.is_file() or _is_old(run, files):
        return None
    match read_json_object(files.metrics, "the metrics of `promptsg evaluate`", _REMEDY):
        case {"query_where": str(query), "gallery_where": str(gallery), "rerank": rerank, **rest}:
            return replace(
                config,
                query_where=query,
                gallery_where=gallery,
                keep_same_camera=rest.get("same_camera") == "kept",
                rerank=_rerank(rerank),
            )
    return None


def _rerank(recorded: object) -> RerankConfig | None:
    match recorded:
        case {"k1": int(k1), "k2": int(k2), "weight": float(weight)}:
            return RerankConfig(k1=k1, k2=k2, weight=weight)
    return None


def _is_old(run: Run, files: EvaluationFiles) -> bool:
    """Whether the run has changed since it was evaluated.

    Earlier versions did not write what was evaluated: then any file that was put into the metadata later counts.
    """
    state = stored_state(files.queries)
    if state is None:
        return files.metrics.stat().st_mtime_ns < run.layout.metadata.stat().st_mtime_ns
    return state != EvaluatedState.of(run)


def _told(settings: EvaluateConfig) -> str:
    words: Sequence[str] = [
        f"queries {settings.query_where}",
        f"gallery {settings.gallery_where}",
        "with images of the same camera" if settings.keep_same_camera else "without images of the same camera",
        *(["re-ranked"] if settings.rerank else []),
    ]
    return ", ".join(words)
