"""Retrieval from a run's stored features: the ranking, its scores, and what average precision correlates with."""

from __future__ import annotations

from jobs.arrays import Float32Array, Int64Array
from jobs.atomic import make_folder
from jobs.retrieval.correlates import correlate_all, measure_columns, measures_of
from jobs.retrieval.distances import Distances, EuclideanDistances
from jobs.retrieval.evaluation import EvaluateConfig, Evaluation, EvaluationFiles
from jobs.retrieval.features import load_features
from jobs.retrieval.protocol import Ranking, rank_gallery
from jobs.retrieval.report import write_evaluation
from jobs.retrieval.rerank import RerankedDistances
from jobs.retrieval.scores import camera_pairs, summarise
from jobs.retrieval.selection import SideRows, as_sides, only_in_own_camera, own_places, select_side
from jobs.runs.query import warn_of_unfinished
from jobs.runs.run import open_run

__all__ = ["EvaluateConfig", "Evaluation", "evaluate"]


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Ranks the gallery for every query, writes the four files of the output folder, and returns what they say.

    Raises UserError if nothing is left to rank, a condition is not SQL, or the memory does not suffice.
    """
    run = open_run(config.run)
    warn_of_unfinished(run)
    measures = measure_columns(run.maps)
    query_rows, query_counts = select_side(run, config.query_where, "--query-where", measures, keep_junk=True)
    gallery_rows, gallery_counts = select_side(run, config.gallery_where, "--gallery-where", [], keep_junk=False)
    queries, gallery = as_sides(query_rows, gallery_rows)
    make_folder(config.folder)
    features, block = load_features(run, query_rows, gallery_rows, config.memory, config.rerank)
    places = own_places(queries, gallery)
    own = places if config.keep_same_camera else None
    ranking = _rank(queries, gallery, features, config, config.block or block, own)
    correlations = correlate_all(
        ranking.ap,
        queries.identity,
        measures_of(run, queries, gallery, own),
        samples=config.bootstrap,
        seed=config.seed,
    )
    scores = summarise(ranking.ap, ranking.inp, ranking.first)
    evaluation = Evaluation(
        config=config,
        scores=scores,
        camera_pairs=tuple(camera_pairs(ranking, queries.camid)),
        correlations=tuple(correlations),
        queries=query_counts,
        gallery=gallery_counts,
        queries_without_match=len(queries) - scores.queries,
        queries_only_in_own_camera=int((only_in_own_camera(queries, gallery, places) & (ranking.matches == 0)).sum()),
        wrong_rank1=int((ranking.first > 1).sum()),
        feature_width=features.shape[1],
        files=EvaluationFiles.in_folder(config.folder),
    )
    write_evaluation(evaluation, queries, gallery, ranking)
    return evaluation


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
