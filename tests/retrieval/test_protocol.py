"""The retrieval protocol against slow literal transcriptions: pure Python loops in float64, and dense re-ranking."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jobs.errors import UserError
from jobs.identity import NOBODY
from jobs.retrieval.distances import EuclideanDistances
from jobs.retrieval.protocol import Ranking, Side, rank_gallery
from jobs.retrieval.ranks import average_precision, nearest
from jobs.retrieval.rerank import RerankConfig, RerankedDistances
from jobs.retrieval.scores import RetrievalScores, summarise


def random_case(seed: int, *, coarse: bool, queries: int = 23, gallery: int = 61) -> tuple[Side, Side]:
    """Random sides with identities 0 to 5, images of nobody, 3 cameras, and ties.

    Coarse features have four entries of +-1, so that distances are exact in any arithmetic and most of them tie;
    others are Gaussian, some of them copies of others.
    """
    rng = np.random.default_rng(seed)

    def side(count: int) -> Side:
        if coarse:
            features = rng.choice([-1.0, 1.0], (count, 4)).astype(np.float32)
        else:
            features = rng.normal(size=(count, 48)).astype(np.float32) * rng.uniform(0.1, 50, (count, 1))
            features[rng.integers(0, count, count // 3)] = features[rng.integers(0, count, count // 3)]
        return Side(features.astype(np.float32), rng.integers(NOBODY, 6, count), rng.integers(0, 3, count))

    asked, ranked = side(queries), side(gallery)
    asked.features[:5] = ranked.features[10:15]
    asked.identity[7] = 99  # has no match
    return asked, ranked


def literal_distances(queries: np.ndarray, gallery: np.ndarray) -> list[list[float]]:
    """Squared Euclidean distances between L2-normalised features, one multiplication after the other."""

    def normalised(row: np.ndarray) -> list[float]:
        values = [float(v) for v in row]
        length = math.sqrt(sum(v * v for v in values))
        return [v / length if length else 0.0 for v in values]

    left, right = [normalised(q) for q in queries], [normalised(g) for g in gallery]
    return [[sum((a - b) * (a - b) for a, b in zip(q, g, strict=True)) for g in right] for q in left]


def same_person(queries: Side, gallery: Side, q: int, g: int) -> bool:
    return bool(queries.identity[q] == gallery.identity[g] != NOBODY)


def literal_protocol(distances: list[list[float]], queries: Side, gallery: Side, camera: int | None = None) -> list:
    """Per query (ap, inp, first, order), or None where nothing matches; only the gallery of one camera if given."""
    found: list = []
    for q, row in enumerate(distances):
        order = []
        for g in sorted(range(len(row)), key=lambda i: row[i]):
            if same_person(queries, gallery, q, g) and gallery.camid[g] == queries.camid[q]:
                continue
            if camera is not None and gallery.camid[g] != camera:
                continue
            order.append(g)
        hits, precisions, first, last = 0, [], 0, 0
        for rank, g in enumerate(order, 1):
            if same_person(queries, gallery, q, g):
                hits += 1
                first, last = first or rank, rank
                precisions.append(hits / rank)
        found.append((sum(precisions) / hits, hits / last, first, order) if hits else (None, None, 0, order))
    return found


def check(
    ranking: Ranking, distances: list[list[float]], queries: Side, gallery: Side, topk: int, rtol: float = 1e-12
) -> None:
    """Compares everything that a ranking says with the literal protocol."""
    for q, (ap, inp, first, order) in enumerate(literal_protocol(distances, queries, gallery)):
        assert ranking.first[q] == first
        assert ranking.nearest[q].tolist() == (order + [-1] * topk)[:topk]
        np.testing.assert_allclose(ranking.distances[q][: len(order)], [distances[q][g] for g in order][:topk], rtol)
        if ap is None:
            assert np.isnan(ranking.ap[q]) and np.isnan(ranking.inp[q]) and ranking.matches[q] == 0
        else:
            assert ranking.ap[q] == pytest.approx(ap, rel=1e-12) and ranking.inp[q] == pytest.approx(inp, rel=1e-12)
            assert ranking.matches[q] == sum(same_person(queries, gallery, q, g) for g in order)
    for c, camera in enumerate(ranking.cameras.tolist()):
        for q, (ap, inp, first, _) in enumerate(literal_protocol(distances, queries, gallery, camera)):
            assert ranking.camera_first[q, c] == first
            assert ranking.camera_ap[q, c] == pytest.approx(np.nan if ap is None else ap, rel=1e-12, nan_ok=True)
            assert ranking.camera_inp[q, c] == pytest.approx(np.nan if ap is None else inp, rel=1e-12, nan_ok=True)


def same(one: Ranking, other: Ranking) -> None:
    for name in one.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("coarse", [True, False], ids=["coarse", "gaussian"])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_literal_protocol_in_blocks_of_any_size(seed: int, coarse: bool) -> None:
    queries, gallery = random_case(seed, coarse=coarse)
    distances = EuclideanDistances(queries.features, gallery.features)
    wanted = literal_distances(queries.features, gallery.features)
    rankings = [rank_gallery(queries, gallery, distances, topk=10, block=block) for block in (1, 7, 1000)]
    check(rankings[0], wanted, queries, gallery, 10)
    same(rankings[0], rankings[1])
    same(rankings[0], rankings[2])
    assert any(len(set(row)) < len(row) for row in wanted)  # there were ties
    assert (queries.identity == NOBODY).any() and (gallery.identity == NOBODY).any()


def test_neighbours_that_float32_cannot_tell_apart_are_told_apart() -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(size=256)
    gallery = (base + 1e-5 * rng.normal(size=(300, 256))).astype(np.float32)
    queries = (base + rng.normal(size=(20, 256))).astype(np.float32)
    sides = Side(queries, np.arange(20), np.zeros(20, int)), Side(gallery, np.arange(300) % 20, np.ones(300, int))
    distances = EuclideanDistances(queries, gallery)
    wanted = literal_distances(queries, gallery)
    check(rank_gallery(*sides, distances, topk=300, block=8), wanted, *sides, 300)
    # The test would be idle if the product's own order were right.
    assert (np.argsort(distances.rows(0, 20), axis=1, kind="stable") != np.argsort(wanted, axis=1, kind="stable")).any()


def test_the_product_is_within_its_margin() -> None:
    rng = np.random.default_rng(0)
    for width in (4, 1280):
        queries, gallery = (rng.normal(size=(n, width)).astype(np.float32) for n in (30, 200))
        gallery[3] = queries[3]
        gallery[5] = 0
        distances = EuclideanDistances(queries, gallery)
        exact = np.stack([distances.exact(q, np.arange(200)) for q in range(30)])
        assert 0 < np.abs(distances.rows(0, 30) - exact).max() < distances.margin
        assert exact[3, 3] == 0 and np.allclose(exact[:, 5], 1)


def test_average_precision_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    rng = np.random.default_rng(1)
    queries = Side(rng.normal(size=(40, 16)).astype(np.float32), rng.integers(0, 9, 40), rng.integers(0, 4, 40))
    gallery = Side(rng.normal(size=(300, 16)).astype(np.float32), rng.integers(0, 9, 300), rng.integers(0, 4, 300))
    found = rank_gallery(queries, gallery, EuclideanDistances(queries.features, gallery.features), topk=1, block=16)
    for q in range(40):
        left, right = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (queries.features[q], gallery.features))
        kept = (gallery.identity != queries.identity[q]) | (gallery.camid != queries.camid[q])
        wanted = metrics.average_precision_score(gallery.identity[kept] == queries.identity[q], (right @ left)[kept])
        assert found.ap[q] == pytest.approx(wanted, abs=1e-9)


def test_by_hand() -> None:
    # Angles from the query: the distance grows with them. Images: hit, negative, same camera, hit, distractor.
    angles = np.array([0.1, 0.2, 0.0, 0.3, 0.05])
    gallery = Side(
        np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32),
        np.array([7, 8, 7, 7, NOBODY]),
        np.array([1, 1, 0, 2, 0]),
    )
    query = Side(np.array([[3.0, 0.0]], np.float32), np.array([7]), np.array([0]))
    found = rank_gallery(query, gallery, EuclideanDistances(query.features, gallery.features), topk=9, block=1)
    assert found.nearest[0].tolist() == [4, 0, 1, 3, -1, -1, -1, -1, -1]
    np.testing.assert_allclose(found.distances[0, :4], 2 - 2 * np.cos([0.05, 0.1, 0.2, 0.3]), rtol=1e-5)
    assert found.ap[0] == (1 / 2 + 2 / 4) / 2 and found.inp[0] == 2 / 4 and found.first[0] == 2
    assert found.camera_first.tolist() == [[0, 1, 1]] and found.cameras.tolist() == [0, 1, 2]
    summary = summarise(found.ap, found.inp, found.first)
    assert summary.cmc[:3] == (0, 1, 1) and len(summary.cmc) == 50 and summary.mAP == 0.5
    nothing = summarise(np.array([np.nan]), np.array([np.nan]), np.array([0]))
    assert nothing == RetrievalScores(queries=0, mAP=None, mINP=None, cmc=(None,) * 50)


def test_images_of_nobody_match_nothing() -> None:
    features = np.eye(4, dtype=np.float32)
    gallery = Side(features, np.array([NOBODY, NOBODY, 3, 4]), np.array([0, 1, 0, 1]))
    queries = Side(features[[0, 2]], np.array([NOBODY, 3]), np.array([1, 1]))
    found = rank_gallery(queries, gallery, EuclideanDistances(queries.features, features), topk=4, block=2)
    assert found.matches.tolist() == [0, 1] and found.first.tolist() == [0, 1]
    assert np.isnan(found.ap[0]) and found.ap[1] == 1
    # Nothing is left out of the ranking of a query without identity, not even images without one of its own camera.
    assert sorted(found.nearest[0].tolist()) == [0, 1, 2, 3]


def test_cmc_counts_the_queries_that_have_a_match() -> None:
    first = np.array([1, 0, 3, 50, 51, 4000])
    cmc = summarise(np.ones(6), np.ones(6), first).cmc
    assert [cmc[r - 1] for r in (1, 2, 3, 49, 50)] == [0.2, 0.2, 0.4, 0.4, 0.6]


def test_features_that_are_not_numbers_are_refused() -> None:
    features = np.array([[1.0, np.nan], [0.0, 1.0]], np.float32)
    with pytest.raises(UserError, match="1 features are not finite"):
        EuclideanDistances(features, features[1:])


def literal_rerank(features: np.ndarray, queries: int, k1: int, k2: int, weight: float) -> np.ndarray:
    """(N, M) the published algorithm with dense matrices, one image at a time; sorting is stable."""
    original = np.array(literal_distances(features, features))
    count = len(original)
    original = original / original.max(axis=1, keepdims=True)
    rank = np.argsort(original, axis=1, kind="stable")
    encoding = np.zeros((count, count))

    def reciprocal(i: int, k: int) -> np.ndarray:
        forward = rank[i, : k + 1]
        return forward[[i in rank[j, : k + 1] for j in forward]]

    for i in range(count):
        members = reciprocal(i, k1)
        expanded = members
        for candidate in members:
            theirs = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(np.intersect1d(theirs, members)) > 2 / 3 * len(theirs):
                expanded = np.append(expanded, theirs)
        expanded = np.unique(expanded)
        value = np.exp(-original[i, expanded])
        encoding[i, expanded] = value / value.sum()
    if k2 != 1:
        encoding = np.stack([encoding[rank[i, :k2]].mean(axis=0) for i in range(count)])
    found = np.empty((queries, count - queries))
    for q in range(queries):
        for g in range(queries, count):
            common = np.minimum(encoding[q], encoding[g]).sum()
            found[q, g - queries] = (1 - common / (2 - common)) * (1 - weight) + original[q, g] * weight
    return found


CASES = [(20, 6, 0.3), (5, 3, 0.3), (7, 1, 0.5), (4, 2, 0.0), (3, 2, 1.0), (300, 500, 0.3)]


@pytest.mark.parametrize(("k1", "k2", "weight"), CASES)
def test_rerank_equals_the_literal_algorithm(k1: int, k2: int, weight: float) -> None:
    rng = np.random.default_rng(k1)
    count, asked = 90, 20
    pid = rng.integers(0, 12, count)
    features = (rng.normal(size=(12, 24))[pid] + 0.9 * rng.normal(size=(count, 24))).astype(np.float32)
    camid = rng.integers(0, 3, count)
    queries = Side(features[:asked], pid[:asked], camid[:asked])
    gallery = Side(features[asked:], pid[asked:], camid[asked:])
    wanted = literal_rerank(features, asked, k1, k2, weight)
    for block in (1, 7, 500):
        config = RerankConfig(k1=k1, k2=k2, weight=weight)
        distances = RerankedDistances(features, asked, config, block)
        exact = np.stack([distances.exact(q, np.arange(count - asked)) for q in range(asked)])
        np.testing.assert_allclose(exact, wanted, rtol=1e-12, atol=1e-14)
        assert np.abs(distances.rows(0, asked) - exact).max() <= distances.margin
        ranking = rank_gallery(queries, gallery, distances, topk=6, block=block)
        check(ranking, np.round(wanted, 12).tolist(), queries, gallery, 6, rtol=1e-10)  # rounded: its sums differ
    if weight < 1 and k1 < count:
        plain = rank_gallery(queries, gallery, EuclideanDistances(queries.features, gallery.features), topk=6, block=9)
        assert (plain.nearest != ranking.nearest).any()


def test_rerank_of_images_that_are_all_one() -> None:
    features = np.ones((12, 4), np.float32)
    distances = RerankedDistances(features, 4, RerankConfig(k1=2, k2=1), 5)
    assert np.isfinite(distances.exact(0, np.arange(8))).all()
    with pytest.raises(UserError, match="k1, k2 >= 1"):
        RerankedDistances(features, 4, RerankConfig(k1=0), 5)


def test_nearest_and_average_precision_alone() -> None:
    row = np.array([3.0, np.inf, 1.0, 1.0, 2.0])
    positions, distances = nearest(row, 4, lambda at: row[at], 0.0)
    assert positions.tolist() == [2, 3, 4, 0] and distances.tolist() == [1, 1, 2, 3]
    assert nearest(row, 9, lambda at: row[at], 0.0)[0].tolist() == [2, 3, 4, 0]
    assert average_precision(np.array([1, 2, 3])) == 1 and average_precision(np.array([2, 4])) == 0.5
