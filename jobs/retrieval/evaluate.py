"""Retrieval from a run's stored features: the ranking, its scores, and what average precision correlates with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.arrays import Float32Array, Int64Array
from jobs.atomic import make_folder
from jobs.progress import told
from jobs.retrieval.correlates import correlate_all, measure_columns, measures_of
from jobs.retrieval.distances import Distances, EuclideanDistances
from jobs.retrieval.evaluation import EvaluateConfig, Evaluation, EvaluationFiles
from jobs.retrieval.features import load_features, median_cosine
from jobs.retrieval.protocol import Ranking, rank_gallery
from jobs.retrieval.report import write_evaluation
from jobs.retrieval.rerank import RerankedDistances
from jobs.retrieval.scores import camera_pairs, summarise
from jobs.retrieval.selection import SideCounts, SideRows, as_sides, only_in_own_camera, own_places, select_side
from jobs.runs.evaluation.query_scores import EvaluatedState
from jobs.runs.query import warn_of_unfinished
from jobs.runs.run import Run, open_run

_PARALLEL = 0.99  # of a trained model on persons, the median cosine is far below

__all__ = ["EvaluateConfig", "Evaluation", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class ChosenSides:
    """The rows of both sides of a run, and their counts."""

    queries: SideRows
    gallery: SideRows
    query_counts: SideCounts
    gallery_counts: SideCounts


@dataclass(frozen=True, kw_only=True)
class RankedSides:
    """The ranking of the gallery for each query; own (N,) are the queries' own places in the gallery, or -1.
    median_cosine is of pairs of gallery images."""

    ranking: Ranking
    own: Int64Array
    feature_width: int
    median_cosine: float | None


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Ranks the gallery for every query, writes the four files of the output folder, and returns what they say.

    Raises UserError if nothing is left to rank, a condition is not SQL, or the memory does not suffice.
    """
    run = open_run(config.run)
    warn_of_unfinished(run)
    state = EvaluatedState.of(run)  # before any row is read: a run that grows meanwhile is another state
    sides = choose_sides(run, config, measure_columns(run.maps))
    queries, gallery = sides.queries, sides.gallery
    make_folder(config.folder)
    ranked = rank_sides(run, sides, config)
    ranking = ranked.ranking
    correlations = correlate_all(
        ranking.ap,
        queries.identity,
        measures_of(run, queries, gallery, ranked.own if config.keep_same_camera else None),
        samples=config.bootstrap,
        seed=config.seed,
    )
    scores = summarise(ranking.ap, ranking.inp, ranking.first)
    only_here = only_in_own_camera(queries, gallery, ranked.own) & (ranking.matches == 0)
    evaluation = Evaluation(
        config=config,
        scores=scores,
        camera_pairs=tuple(camera_pairs(ranking, queries.camid)),
        correlations=tuple(correlations),
        queries=sides.query_counts,
        gallery=sides.gallery_counts,
        queries_without_match=len(queries) - scores.queries,
        queries_only_in_own_camera=int(only_here.sum()),
        wrong_rank1=int((ranking.first > 1).sum()),
        feature_width=ranked.feature_width,
        median_cosine=ranked.median_cosine,
        near_parallel=near_parallel(run, ranked.median_cosine),
        files=EvaluationFiles.in_folder(config.folder),
    )
    write_evaluation(evaluation, state, queries, gallery, ranking)
    return evaluation


def near_parallel(run: Run, cosine: float | None) -> str | None:
    """What to do where features are nearly parallel, in words; None where they are not."""
    if cosine is None or cosine <= _PARALLEL:
        return None
    told = f"features are nearly parallel (the median cosine of two images is {cosine:.4f})"
    neck = run.manifest.resolved.model.get("neck_feat")
    other = {"before": "after", "after": "before"}.get(str(neck))
    advice = f"they were taken {neck} the neck; try `mine --neck-feat {other}`" if other else "is the model trained?"
    return f"{told}, so small differences decide the ranking: {advice}"


@told("choosing queries and gallery")
def choose_sides(run: Run, config: EvaluateConfig, columns: Sequence[str] = ()) -> ChosenSides:
    """The queries, with these further columns, and the gallery. Raises UserError if nothing is left to rank."""
    queries, query_counts = select_side(run, config.query_where, "--query-where", columns, keep_junk=True)
    gallery, gallery_counts = select_side(run, config.gallery_where, "--gallery-where", [], keep_junk=False)
    both = as_sides(queries, gallery)
    return ChosenSides(queries=both[0], gallery=both[1], query_counts=query_counts, gallery_counts=gallery_counts)


def rank_sides(run: Run, sides: ChosenSides, config: EvaluateConfig) -> RankedSides:
    """Ranks the gallery for every query; writes nothing. Raises UserError if the memory does not suffice."""
    queries, gallery = sides.queries, sides.gallery
    features, block = load_features(run, queries.table, gallery.table, config.memory, config.rerank)
    own = own_places(queries, gallery)
    kept = own if config.keep_same_camera else None
    ranking = _rank(queries, gallery, features, config, config.block or block, kept)
    return RankedSides(
        ranking=ranking, own=own, feature_width=features.shape[1], median_cosine=median_cosine(features[len(queries) :])
    )


def _rank(
    queries: SideRows,
    gallery: SideRows,
    features: Float32Array,
    config: EvaluateConfig,
    block: int,
    own: Int64Array | None,
) -> Ranking:
    """features (N + M, D), the queries' first."""
    count = len(queries)
    distances: Distances
    if config.rerank is None:
        distances = EuclideanDistances(features[:count], features[count:])
    else:
        distances = RerankedDistances(features, count, config.rerank, block)
    sides = queries.side(features[:count]), gallery.side(features[count:])
    return rank_gallery(*sides, distances, topk=config.topk, block=block, own=own)
