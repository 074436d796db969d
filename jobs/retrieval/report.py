"""The files of `promptsg evaluate`: metrics.json, a table of the queries, and what AP correlates with (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from jobs.atomic import write_json, write_lines, write_whole
from jobs.identity import NOBODY
from jobs.progress import told
from jobs.retrieval.correlates import Correlation, worst_first
from jobs.retrieval.evaluation import Evaluation
from jobs.retrieval.protocol import Ranking
from jobs.retrieval.selection import SideRows
from jobs.runs.evaluation.query_scores import EvaluatedState
from jobs.statistics.intervals.resamples import LEVEL
from jobs.tables import csv_text, write_parquet

# The columns of queries.parquet, in their order, and whether they may be null.
_QUERY_FIELDS = (
    pa.field("shard", pa.string(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("h5_row", pa.int64(), nullable=False),
    pa.field("pid", pa.int64()),
    pa.field("camid", pa.int32(), nullable=False),
    pa.field("ap", pa.float64()),
    pa.field("inp", pa.float64()),
    pa.field("first_hit_rank", pa.int64()),
    pa.field("rank1_correct", pa.bool_()),
    pa.field("num_matches", pa.int64(), nullable=False),
    pa.field("topk_keys", pa.list_(pa.string()), nullable=False),
    pa.field("topk_shards", pa.list_(pa.string()), nullable=False),
    pa.field("topk_h5_rows", pa.list_(pa.int64()), nullable=False),
    pa.field("topk_pids", pa.list_(pa.int64()), nullable=False),
    pa.field("topk_camids", pa.list_(pa.int32()), nullable=False),
    pa.field("topk_distances", pa.list_(pa.float64()), nullable=False),
    pa.field("topk_correct", pa.list_(pa.bool_()), nullable=False),
)


@told("writing the results")
def write_evaluation(
    evaluation: Evaluation, state: EvaluatedState, queries: SideRows, gallery: SideRows, ranking: Ranking
) -> None:
    """Writes queries.parquet, failures.txt, why.csv and metrics.json: each whole or not at all, metrics.json last.

    `state` is what was ranked; queries.parquet keeps it.
    """
    files = evaluation.files
    table = queries_table(queries, gallery, ranking)
    write_parquet(files.queries, table.replace_schema_metadata(state.as_metadata()))
    wrong = worst_first(queries.table["key"].to_pylist(), ranking.ap, ranking.first > 1)
    write_lines(files.failures, wrong)
    _write_correlations(files.correlations, evaluation.correlations)
    write_json(files.metrics, _metrics(evaluation))


def queries_table(queries: SideRows, gallery: SideRows, ranking: Ranking) -> pa.Table:
    """One row per query, in the order of shards and tars; ap, inp, first_hit_rank, rank1_correct null without match."""
    matched = ranking.first > 0
    there = ranking.nearest >= 0
    picked = ranking.nearest[there]
    images = gallery.table.take(picked)
    who = np.repeat(queries.identity, there.sum(axis=1))
    correct = (gallery.identity[picked] == who) & (who != NOBODY)
    ends = pa.array(np.append(0, there.sum(axis=1).cumsum()).astype(np.int32))
    columns = {
        **{name: queries.table[name] for name in ("shard", "key", "h5_row", "pid", "camid")},
        "ap": pa.array(ranking.ap, mask=~matched),
        "inp": pa.array(ranking.inp, mask=~matched),
        "first_hit_rank": pa.array(ranking.first, mask=~matched),
        "rank1_correct": pa.array(ranking.first == 1, mask=~matched),
        "num_matches": pa.array(ranking.matches),
        "topk_keys": _lists(ends, images["key"]),
        "topk_shards": _lists(ends, images["shard"]),
        "topk_h5_rows": _lists(ends, images["h5_row"]),
        "topk_pids": _lists(ends, images["pid"]),
        "topk_camids": _lists(ends, images["camid"]),
        "topk_distances": _lists(ends, pa.chunked_array([ranking.distances[there]])),
        "topk_correct": _lists(ends, pa.chunked_array([correct])),
    }
    return pa.table([columns[field.name] for field in _QUERY_FIELDS], schema=pa.schema(_QUERY_FIELDS))


def _lists(ends: pa.Array, values: pa.ChunkedArray) -> pa.ListArray:
    """The values as one list per query; list n is from ends[n] to ends[n + 1]."""
    return pa.ListArray.from_arrays(ends, values.combine_chunks())


def _write_correlations(path: Path, correlations: Sequence[Correlation]) -> None:
    names = [field.name for field in fields(Correlation)]
    text = csv_text(names, ([getattr(line, name) for name in names] for line in correlations))
    write_whole(path, text.encode())


def _metrics(evaluation: Evaluation) -> dict[str, object]:
    """The content of metrics.json; `why` are the correlations of AP."""
    config = evaluation.config
    return {
        "run": str(config.run),
        "query_where": config.query_where,
        "gallery_where": config.gallery_where,
        "rerank": asdict(config.rerank) if config.rerank else None,
        "feature_width": evaluation.feature_width,
        "selected_queries": evaluation.queries.selected,
        "queries_without_label": evaluation.queries.without_label,
        "queries_without_match": evaluation.queries_without_match,
        "queries_only_in_own_camera": evaluation.queries_only_in_own_camera,
        "same_camera": "kept" if config.keep_same_camera else "left out",
        "selected_gallery": evaluation.gallery.selected,
        "gallery_without_label": evaluation.gallery.without_label,
        "gallery_junk": evaluation.gallery.junk,
        "gallery": evaluation.gallery.ranked,
        "gallery_distractors": evaluation.gallery.distractors,
        "median_cosine": evaluation.median_cosine,
        **asdict(evaluation.scores),
        "wrong_rank1": evaluation.wrong_rank1,
        "bootstrap": {"samples": config.bootstrap, "seed": config.seed, "interval": LEVEL},
        "camera_pairs": [
            {"query_camid": pair.query_camid, "gallery_camid": pair.gallery_camid, **asdict(pair.scores)}
            for pair in evaluation.camera_pairs
        ],
        "why": [asdict(line) for line in evaluation.correlations],
    }
