"""Scores over queries: mAP, mINP and CMC, overall and by pair of cameras.

Legend: N queries, C cameras of the gallery.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.arrays import Float64Array, Int64Array
from jobs.retrieval.protocol import Ranking

CMC_RANKS = 50


@dataclass(frozen=True, kw_only=True)
class RetrievalScores:
    """Means over the `queries` that have a match, 0 to 1; None where none has. `cmc` is at ranks 1 to 50."""

    queries: int
    mAP: float | None
    mINP: float | None
    cmc: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class CameraPair:
    """The scores of one camera's queries in the gallery of another; ids are 0-based."""

    query_camid: int
    gallery_camid: int
    scores: RetrievalScores


def summarise(ap: Float64Array, inp: Float64Array, first: Int64Array) -> RetrievalScores:
    """(N,) each, as in a Ranking -> the means over queries that have a match."""
    valid = first > 0
    count = int(valid.sum())
    if count == 0:
        return RetrievalScores(queries=0, mAP=None, mINP=None, cmc=(None,) * CMC_RANKS)
    counts = np.bincount(np.minimum(first[valid], CMC_RANKS + 1), minlength=CMC_RANKS + 2)
    cmc = counts[1 : CMC_RANKS + 1].cumsum() / count
    return RetrievalScores(
        queries=count, mAP=float(ap[valid].mean()), mINP=float(inp[valid].mean()), cmc=tuple(cmc.tolist())
    )


def camera_pairs(ranking: Ranking, camid: Int64Array) -> list[CameraPair]:
    """The scores of each pair of different cameras; camid (N,) is the queries'."""
    pairs = []
    for camera in np.unique(camid).tolist():
        here = camid == camera
        for i, other in enumerate(ranking.cameras.tolist()):
            if other != camera:
                scores = summarise(
                    ranking.camera_ap[here, i], ranking.camera_inp[here, i], ranking.camera_first[here, i]
                )
                pairs.append(CameraPair(query_camid=camera, gallery_camid=other, scores=scores))
    return pairs
