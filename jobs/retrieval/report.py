"""What `promptsg evaluate` leaves of a ranking: its four files, and the table that it prints (no torch)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.retrieval.correlates import Correlation
    from jobs.retrieval.protocol import Ranking

CMC_SHOWN = (1, 5, 10, 20)
_MANY_PAIRS, _WORST_PAIRS = 30, 10  # Market-1501 has 30, MSMT17 has 210


def write_evaluation(
    output: Path,
    queries: pa.Table,
    gallery: pa.Table,
    ranking: Ranking,
    why: Sequence[Correlation],
    metrics: dict[str, Any],
) -> None:
    """Writes queries.parquet, failures.txt, why.csv and metrics.json: each whole or not at all, metrics.json last."""
    import csv
    import io

    import pyarrow.parquet as pq

    from jobs.atomic import StagedFile, write_whole
    from jobs.retrieval.correlates import Correlation, worst_first

    with StagedFile(output / "queries.parquet") as staged:
        pq.write_table(queries_table(queries, gallery, ranking), staged.file, compression="zstd")
        staged.sync()
        staged.publish()
    wrong = worst_first(queries["key"].to_pylist(), ranking.ap, ranking.first > 1)
    write_whole(output / "failures.txt", "".join(f"{key}\n" for key in wrong).encode())
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Correlation.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in why)
    write_whole(output / "why.csv", text.getvalue().encode())
    write_whole(output / "metrics.json", (json.dumps(metrics, indent=1, ensure_ascii=False) + "\n").encode())


def queries_table(queries: pa.Table, gallery: pa.Table, ranking: Ranking) -> pa.Table:
    """One row per query, in the order of shards and tars; ap, inp, first_hit_rank, rank1_correct null without match."""
    import numpy as np
    import pyarrow as pa

    matched = ranking.first > 0
    there = ranking.nearest >= 0
    ends = pa.array(np.append(0, there.sum(axis=1).cumsum()).astype(np.int32))
    picked = gallery.take(ranking.nearest[there])
    pids = np.repeat(queries["pid"].to_numpy(), there.sum(axis=1))

    def listed(values: Any, kind: pa.DataType) -> pa.Array:
        flat = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else pa.array(values)
        return pa.ListArray.from_arrays(ends, flat.cast(kind))

    fields: list[tuple[str, pa.DataType, bool, Any]] = [
        ("shard", pa.string(), False, queries["shard"]),
        ("key", pa.string(), False, queries["key"]),
        ("h5_row", pa.int64(), False, queries["h5_row"]),
        ("pid", pa.int64(), False, queries["pid"]),
        ("camid", pa.int32(), False, queries["camid"]),
        ("ap", pa.float64(), True, pa.array(ranking.ap, mask=~matched)),
        ("inp", pa.float64(), True, pa.array(ranking.inp, mask=~matched)),
        ("first_hit_rank", pa.int64(), True, pa.array(ranking.first, mask=~matched)),
        ("rank1_correct", pa.bool_(), True, pa.array(ranking.first == 1, mask=~matched)),
        ("num_matches", pa.int64(), False, pa.array(ranking.matches)),
    ]
    lists = {
        "topk_keys": (picked["key"], pa.string()),
        "topk_shards": (picked["shard"], pa.string()),
        "topk_h5_rows": (picked["h5_row"], pa.int64()),
        "topk_pids": (picked["pid"], pa.int64()),
        "topk_camids": (picked["camid"], pa.int32()),
        "topk_distances": (ranking.distances[there], pa.float64()),
        "topk_correct": (picked["pid"].to_numpy() == pids, pa.bool_()),
    }
    fields += [(name, pa.list_(kind), False, listed(values, kind)) for name, (values, kind) in lists.items()]
    schema = pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable, _ in fields])
    return pa.table([values for *_, values in fields], schema=schema)


def describe(metrics: dict[str, Any], output: Path) -> str:
    """What metrics.json holds as lines for a terminal, of the camera pairs the worst where there are many."""
    left_out = [
        f"{metrics['queries_without_match']} queries without a match",
        f"{metrics['queries_without_label']} queries and {metrics['gallery_without_label']} gallery images without "
        "pid or camid",
        f"{metrics['gallery_junk']} junk images",
    ]
    lines = [
        f"{metrics['run']}: {metrics['queries']} queries, {metrics['gallery']} gallery images, "
        f"features of {metrics['feature_width']}" + (", re-ranked" if metrics["rerank"] else ""),
        f"left out: {', '.join(left_out)}",
        "",
        f"{'camera':>12} {'queries':>8} {_HEADS}",
        f"{'all':>12} {metrics['queries']:>8} {_percents(metrics)}",
    ]
    pairs = metrics["camera_pairs"]
    if len(pairs) > _MANY_PAIRS:
        lines.append(f"the {_WORST_PAIRS} camera pairs of lowest mAP, of {len(pairs)}:")
        pairs = sorted((p for p in pairs if p["queries"]), key=lambda p: float(p["mAP"]))[:_WORST_PAIRS]
    for pair in pairs:
        name = f"{pair['query_camid']} -> {pair['gallery_camid']}"
        lines.append(f"{name:>12} {pair['queries']:>8} {_percents(pair)}")
    lines += ["", "in %; cameras: of the query -> of the gallery, numbered from 0", ""]
    width = max((len(line["map"]) for line in metrics["why"]), default=3)
    lines.append(f"{'AP goes with':<{width + 12}} {'queries':>8} {'Spearman [95 %]':>24} {'Pearson [95 %]':>24}")
    for line in metrics["why"]:
        spearman, pearson = (_with_interval(line, name) for name in ("spearman", "pearson"))
        lines.append(f"{line['map']:<{width}} {line['measure']:<11} {line['queries']:>8} {spearman:>24} {pearson:>24}")
    lines += ["", f"{metrics['wrong_rank1']} queries have a wrong first image: {output / 'failures.txt'}"]
    return "\n".join([*lines, f"per query: {output / 'queries.parquet'}"])


_HEADS = " ".join(f"{head:>6}" for head in ("mAP", "mINP", *(f"R{rank}" for rank in CMC_SHOWN)))


def _percents(summary: dict[str, Any]) -> str:
    values = [summary["mAP"], summary["mINP"], *(summary["cmc"][rank - 1] for rank in CMC_SHOWN)]
    return " ".join(f"{'-' if value is None else f'{100 * value:.2f}':>6}" for value in values)


def _with_interval(line: dict[str, Any], name: str) -> str:
    if line[name] is None:
        return "-"
    low, high = line[f"{name}_low"], line[f"{name}_high"]
    return f"{line[name]:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")
