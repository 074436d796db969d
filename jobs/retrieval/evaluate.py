"""`promptsg evaluate`: retrieval from a run's stored features, and where it fails (no torch)."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.errors import UserError
from jobs.retrieval.report import describe, write_evaluation

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from jobs.retrieval.protocol import Ranking, Side
    from jobs.retrieval.rerank import RerankConfig
    from jobs.runs.run import Run

_LARGEST_BLOCK = 1024  # more query rows make the matrix product no faster
_FEATURE_ROWS = 4096  # read at a time
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
# The interpreter, its libraries, DuckDB and one block of float64 features, measured; the rest is planned for.
_PROGRAM = 400_000_000


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is asked; `memory` in bytes; `block` in queries, None to work it out from the memory."""

    run: Path
    output: Path
    query_where: str
    gallery_where: str
    topk: int
    memory: int
    block: int | None
    rerank: RerankConfig | None
    bootstrap: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Metadata rows that take part, in the order of shards and tars, and how many others were selected."""

    table: pa.Table
    selected: int
    without_label: int  # pid or camid is null
    junk: int  # pid -1, in the gallery

    def side(self, features: NDArray[np.float32]) -> Side:
        """The rows as the protocol takes them."""
        import numpy as np

        from jobs.retrieval.protocol import Side

        pid, camid = (self.table[name].to_numpy().astype(np.int64) for name in ("pid", "camid"))
        return Side(features, pid, camid)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Ranks the gallery for every query, writes the four files of `output`, and returns what metrics.json holds.

    Raises UserError if nothing is left to rank, a condition is not SQL, or the memory does not suffice.
    """
    from jobs.atomic import make_folder, remove_leftovers
    from jobs.retrieval.correlates import correlate_all, measures_of
    from jobs.retrieval.protocol import Distances, EuclideanDistances, rank_gallery
    from jobs.retrieval.rerank import RerankedDistances
    from jobs.runs.run import open_run

    run = open_run(config.run)
    queries = select(run, config.query_where, "--query-where", junk_too=True)
    gallery = select(run, config.gallery_where, "--gallery-where", junk_too=False)
    make_folder(config.output)
    remove_leftovers(config.output)
    features, block = _load(run, queries.table, gallery.table, config)
    count = len(queries.table)
    distances: Distances
    if config.rerank is None:
        distances = EuclideanDistances(features[:count], features[count:])
    else:
        distances = RerankedDistances(features, count, config.rerank, block)
    sides = queries.side(features[:count]), gallery.side(features[count:])
    ranking = rank_gallery(*sides, distances, topk=config.topk, block=block)
    measures = measures_of(run, queries.table, gallery.table)
    why = correlate_all(ranking.ap, sides[0].pid, measures, samples=config.bootstrap, seed=config.seed)
    metrics = _metrics(config, queries, gallery, features.shape[1], ranking, sides[0])
    metrics["why"] = [asdict(line) for line in why]
    write_evaluation(config.output, queries.table, gallery.table, ranking, why, metrics)
    return metrics


def select(run: Run, where: str, option: str, *, junk_too: bool) -> Selection:
    """The rows that have a feature, a pid and a camid and meet an SQL condition over the metadata's columns.

    Columns: shard, key, h5_row, pid, camid, and m0, m1, ... as in `measure_columns`. Raises UserError naming the option
    if the condition is not SQL, or no row is left.
    """
    import duckdb
    import pyarrow.compute as pc

    from jobs.retrieval.correlates import measure_columns

    if not run.layout.done():
        raise UserError(f"{run.layout.root} has no finished shard; go on with `promptsg mine` first")
    wanted = ["shard", "key", "h5_row", "pid", "camid"]
    wanted += [f"{sql} AS m{i}" for i, sql in enumerate(measure_columns(run.maps).values())]
    with duckdb.connect() as connection:
        connection.register("metadata", run.metadata())
        # The line break ends a comment in the condition.
        query = f"FROM metadata SELECT {', '.join(wanted)} WHERE ({where}\n) AND h5_row IS NOT NULL"
        try:
            table = connection.sql(f"{query} ORDER BY shard, tar_index").to_arrow_table()
        except duckdb.Error as error:
            raise UserError(f"{option} {where!r}: {str(error).splitlines()[0]}") from error
    labelled = table.filter(pc.and_(pc.is_valid(table["pid"]), pc.is_valid(table["camid"])))
    kept = labelled if junk_too else labelled.filter(pc.not_equal(labelled["pid"], -1))
    selection = Selection(
        table=kept,
        selected=len(table),
        without_label=len(table) - len(labelled),
        junk=len(labelled) - len(kept),
    )
    if len(kept) == 0:
        raise UserError(
            f"{run.layout.root}: {option} {where!r} leaves nothing to rank: {selection.selected} images with features, "
            f"{selection.without_label} of them without pid or camid and {selection.junk} junk (pid -1)"
        )
    return selection


def plan_block(queries: int, gallery: int, width: int, memory: int, rerank: RerankConfig | None = None) -> int:
    """How many query rows fit beside the features in `memory` bytes. Raises UserError naming the bytes if none does."""
    images = queries + gallery
    fixed = _PROGRAM + images * width * 4 + (images if rerank else gallery) * 64
    row = width * 12 + gallery * 4
    if rerank is not None:
        fixed += rerank.memory(images)
        row = width * 12 + images * 20  # float64 beside the float32 that it comes from
    if memory < fixed + row:
        what = "re-ranking" if rerank else "ranking"
        raise UserError(
            f"{what} {queries} queries against {gallery} images needs up to {(fixed + row) / 1e9:.2f} GB, and --memory "
            f"allows {memory / 1e9:.2f} GB: raise it to {-(-(fixed + row) // 10**8) / 10:g}GB, or select fewer images"
        )
    return min(_LARGEST_BLOCK, (memory - fixed) // row)


def read_features(run: Run, table: pa.Table, out: NDArray[np.float32]) -> None:
    """Fills (N, D) float32 with the features of the rows, in the table's order, which is that of shards and h5 rows."""
    import numpy as np

    shards = table["shard"].to_numpy(zero_copy_only=False)
    rows = table["h5_row"].to_numpy()
    starts = np.flatnonzero(np.append(True, shards[1:] != shards[:-1])).tolist()
    for start, stop in zip(starts, [*starts[1:], len(table)], strict=True):
        for first in range(start, stop, _FEATURE_ROWS):
            part = slice(first, min(first + _FEATURE_ROWS, stop))
            out[part] = run.read_features(shards[start], rows[part])


def parse_memory(text: str) -> int:
    """`2GB`, `512 MiB` or a number of bytes -> bytes. Raises UserError naming the units."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if found is None or found[2].upper() not in _UNITS:
        raise UserError(f"--memory {text!r} is not a size such as 2GB; units are B, KB, MB, GB, KiB, MiB, GiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _load(run: Run, queries: pa.Table, gallery: pa.Table, config: EvaluateConfig) -> tuple[NDArray[np.float32], int]:
    """The features of both sides, queries first, and the size of a block."""
    import numpy as np

    width = run.read_features(queries["shard"][0].as_py(), slice(0, 1)).shape[1]
    block = plan_block(len(queries), len(gallery), width, config.memory, config.rerank)
    features = np.empty((len(queries) + len(gallery), width), np.float32)
    read_features(run, queries, features[: len(queries)])
    read_features(run, gallery, features[len(queries) :])
    return features, config.block or block


def _metrics(
    config: EvaluateConfig, queries: Selection, gallery: Selection, width: int, ranking: Ranking, side: Side
) -> dict[str, Any]:
    import numpy as np

    from jobs.retrieval.protocol import summarise

    overall = summarise(ranking.ap, ranking.inp, ranking.first)
    pairs = []
    for camera in np.unique(side.camid).tolist():
        asked = side.camid == camera
        for i, other in enumerate(ranking.cameras.tolist()):
            if other != camera:
                columns = (ranking.camera_ap, ranking.camera_inp, ranking.camera_first)
                summary = summarise(*(values[asked, i] for values in columns))
                pairs.append({"query_camid": camera, "gallery_camid": other, **summary})
    return {
        "run": str(config.run),
        "query_where": config.query_where,
        "gallery_where": config.gallery_where,
        "rerank": asdict(config.rerank) if config.rerank else None,
        "feature_width": width,
        "selected_queries": queries.selected,
        "queries_without_label": queries.without_label,
        "queries_without_match": len(side) - overall["queries"],
        "selected_gallery": gallery.selected,
        "gallery_without_label": gallery.without_label,
        "gallery_junk": gallery.junk,
        "gallery": len(gallery.table),
        **overall,
        "wrong_rank1": int((ranking.first > 1).sum()),
        "bootstrap": {"samples": config.bootstrap, "seed": config.seed, "interval": 0.95},
        "camera_pairs": pairs,
    }


@click.command(name="evaluate", short_help="Retrieval from the stored features, and why it fails.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Folder for the results.  [default: RUN/evaluation]")
@click.option("--query-where", default="split = 'query'", show_default=True, help="SQL over the metadata's columns.")
@click.option("--gallery-where", default="split = 'gallery'", show_default=True, help="The same for the gallery.")
@click.option("--topk", type=click.IntRange(1), default=10, show_default=True, help="Nearest images kept per query.")
@click.option("--rerank", is_flag=True, help="Re-rank by k-reciprocal encoding (Zhong et al. 2017).")
@click.option("--k1", type=click.IntRange(1), default=20, show_default=True, help="Reciprocal neighbours of --rerank.")
@click.option("--k2", type=click.IntRange(1), default=6, show_default=True, help="Encodings that --rerank averages.")
@click.option(
    "--lambda",
    "weight",
    type=click.FloatRange(0, 1),
    default=0.3,
    show_default=True,
    help="Weight of the plain distance in --rerank.",
)
@click.option("--memory", default="2GB", show_default=True, help="Most memory to use; decides the block.")
@click.option("--block", type=click.IntRange(1), help="Queries at a time, whatever --memory says.")
@click.option("--bootstrap", type=click.IntRange(1), default=1000, show_default=True, help="Samples of the intervals.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the samples.")
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json.")
def command(run: Path, as_json: bool, **options: Any) -> None:
    """Rank RUN's gallery for each of its queries: mAP, mINP and CMC, overall and per camera pair, and why it fails.

    \b
    Writes to RUN/evaluation (or --output):
      metrics.json     all that is printed, CMC to rank 50
      queries.parquet  per query: AP, INP, rank of the first hit, the nearest images and whether each is right
      failures.txt     keys of the queries whose first image is wrong, worst AP first
      why.csv          correlation of AP with where each map looks, with 95 % intervals over identities

    --memory holds the features and one block of distances, never all distances: Market-1501 (3,368 x 15,913) takes
    0.5 GB, 20,000 x 200,000 fits in the default. --rerank holds every image's neighbours besides, 36 KB an image at
    most with the default k1 and k2, and names the memory that it needs if that is more.

    \b
    Example:
      promptsg evaluate RUN --query-where "split = 'query' AND camid < 3"
    """
    from jobs.retrieval.rerank import RerankConfig

    rerank = RerankConfig(k1=options.pop("k1"), k2=options.pop("k2"), weight=options.pop("weight"))
    options["rerank"] = rerank if options["rerank"] else None
    options["output"] = options["output"] or run / "evaluation"
    options["memory"] = parse_memory(options["memory"])
    config = EvaluateConfig(run=run, **options)
    metrics = evaluate(config)
    click.echo(json.dumps(metrics, indent=1, ensure_ascii=False) if as_json else describe(metrics, config.output))
