"""What `evaluate` takes and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.retrieval.correlates import Correlation
from jobs.retrieval.rerank import RerankConfig
from jobs.retrieval.scores import CameraPair, RetrievalScores
from jobs.retrieval.selection import SideCounts
from jobs.runs.layout import RunLayout
from jobs.runs.query_list import QUERIES


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which images of a run are ranked for which queries, and how.

    output: a folder; None is RUN/evaluation. query_where, gallery_where: SQL conditions over the metadata's columns.
    keep_same_camera: whether a query's images of its own camera are ranked too; the protocol leaves them out.
    topk: nearest images kept per query. memory: most bytes to use. block: queries at a time; None lets the memory
    decide. rerank: None ranks by the plain distance. bootstrap: samples of the intervals, drawn with `seed`.
    """

    run: Path
    output: Path | None = None
    query_where: str = "split = 'query'"
    gallery_where: str = "split = 'gallery'"
    keep_same_camera: bool = False
    topk: int = 10
    memory: int = 2_000_000_000
    block: int | None = None
    rerank: RerankConfig | None = None
    bootstrap: int = 1000
    seed: int = 0

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.output or RunLayout(self.run).evaluation


@dataclass(frozen=True, kw_only=True)
class EvaluationFiles:
    """Where each result is: all scores, a row per query, keys of failed queries, and AP's correlations."""

    metrics: Path
    queries: Path
    failures: Path
    correlations: Path

    @classmethod
    def in_folder(cls, folder: Path) -> EvaluationFiles:
        """Their names in the folder of the results."""
        return cls(
            metrics=folder / "metrics.json",
            queries=folder / QUERIES,
            failures=folder / "failures.txt",
            correlations=folder / "why.csv",
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores over all queries that have a match, and in each pair of cameras; AP's correlations; counts; files.

    queries_without_match: they are in no score. queries_only_in_own_camera: those of them whose person the gallery
    shows in the query's own camera alone. wrong_rank1: queries whose first image shows somebody else. median_cosine: of
    the features of pairs of different gallery images; None where there is one image. near_parallel: what to do where it
    is so near 1 that the ranking hangs on rounding, else None.
    """

    config: EvaluateConfig
    scores: RetrievalScores
    camera_pairs: tuple[CameraPair, ...]
    correlations: tuple[Correlation, ...]
    queries: SideCounts
    gallery: SideCounts
    queries_without_match: int
    queries_only_in_own_camera: int
    wrong_rank1: int
    feature_width: int
    median_cosine: float | None
    near_parallel: str | None
    files: EvaluationFiles
