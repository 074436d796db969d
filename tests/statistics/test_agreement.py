"""Agreement, consistency and outliers against scipy, scikit-learn and plain loops."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from cam.measures import measure_maps
from jobs.statistics.agreement import agreement_of
from jobs.statistics.chosen import NULL_CAM
from jobs.statistics.consistency import auc, camera_pairs, consistency
from jobs.statistics.correlation import mean_ranks
from jobs.statistics.parts.partial import SampledImages
from tests.statistics.test_stats import MAPS, build_run, chosen, flat, made_up, run_command


@pytest.fixture(scope="module")
def images() -> dict[str, list[dict[str, Any]]]:
    return made_up(7)


@pytest.fixture(scope="module")
def results(images: dict[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_run(tmp_path_factory.mktemp("agreement") / "RUN", images)
    run_command(root, "--by", "split", "--outliers", 30, "--resamples", 20)
    return root / "stats"


def tied_maps(count: int, seed: int) -> np.ndarray:
    """(count, 40) with many equal values, zeros above all."""
    return np.floor(np.random.default_rng(seed).gamma(0.7, 3, (count, 40)))


def test_agreement_is_scipys_with_ties() -> None:
    a, b = tied_maps(200, 0), tied_maps(200, 1)
    b[:100] += a[:100]
    found = agreement_of(a, b)
    for x, y, (pearson, spearman, top) in zip(a, b, found, strict=True):
        np.testing.assert_allclose(pearson, scipy.stats.pearsonr(x, y).statistic, atol=1e-12)
        np.testing.assert_allclose(spearman, scipy.stats.spearmanr(x, y).statistic, atol=1e-12)
        tops = [set(sorted(range(40), key=lambda i: (-v[i], i))[:8]) for v in (x, y)]
        assert top == len(tops[0] & tops[1]) / 8
    np.testing.assert_array_equal(mean_ranks(a), scipy.stats.rankdata(a, axis=1))


def test_agreement_without_a_value_is_nan() -> None:
    a, b = tied_maps(3, 2), tied_maps(3, 3)
    a[0], b[1] = np.nan, 0.1
    found = agreement_of(a, b)
    assert np.isnan(found[0]).all() and np.isnan(found[1, :2]).all() and np.isfinite(found[2]).all()


def test_auc_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    rng = np.random.default_rng(4)
    for _ in range(20):
        scores, positive = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.4
        np.testing.assert_allclose(auc(scores, positive), metrics.roc_auc_score(positive, scores), atol=1e-12)
    assert auc(np.arange(3.0), np.ones(3, bool)) is None and auc(np.zeros(0), np.zeros(0, bool)) is None


def test_auc_counts_the_pairs_that_are_in_order() -> None:
    scores, positive = np.array([3.0, 1, 2, 2, 0]), np.array([True, False, True, False, False])
    assert auc(scores, positive) == (3 + 2.5) / 6


def test_pairs_hold_each_identity_and_camera_pair_once() -> None:
    rng = np.random.default_rng(5)
    pid, camid = rng.integers(-1, 12, 300), rng.integers(0, 4, 300)
    camid[rng.random(300) < 0.1] = NULL_CAM
    usable = rng.random(300) < 0.9
    pairs = camera_pairs(pid, camid, usable, 0)
    for ends, column in ((pairs.a, 0), (pairs.b, 1)):
        np.testing.assert_array_equal(camid[ends], pairs.cameras[:, column])
        assert usable[ends].all() and (pid[ends] >= 0).all() and (camid[ends] != NULL_CAM).all()
    np.testing.assert_array_equal(pid[pairs.a] == pid[pairs.b], pairs.same)
    there = {(p, c) for p, c, u in zip(pid.tolist(), camid.tolist(), usable, strict=True) if u and p >= 0 and c >= 0}
    wanted = {(p, a, b) for p, a in there for q, b in there if p == q and a < b}
    same = [
        (int(p), int(a), int(b)) for p, (a, b) in zip(pid[pairs.a[pairs.same]], pairs.cameras[pairs.same], strict=True)
    ]
    assert sorted(same) == sorted(wanted) and (~pairs.same).sum() == len(wanted)
    again, fewer = camera_pairs(pid, camid, usable, 0), camera_pairs(pid, camid, usable, 0, most=10)
    np.testing.assert_array_equal(again.b, pairs.b)
    assert fewer.same.sum() == 10


def test_consistency_tells_identities_that_have_their_own_map() -> None:
    rng = np.random.default_rng(6)
    pid, camid = np.repeat(np.arange(40), 6), np.tile(np.arange(6), 40)
    own, noise = rng.random((40, 30)), rng.random((240, 30))
    share = np.stack([own[pid] + 0.1 * noise, noise], axis=1).astype(np.float32)
    none = np.zeros(240, np.int64)
    shards = np.array(["s"] * 240)
    sample = SampledImages(share=share, group=none, identity=pid, camid=camid, shard=shards, row=np.arange(240))
    found = consistency(sample, ("own", "noise"), 0)
    own, noise_ = found["own"].overall, found["noise"].overall
    assert own.auc is not None and own.auc > 0.999 and noise_.auc is not None and abs(noise_.auc - 0.5) < 0.06
    assert own.same_pairs == 40 * 15 and len(found["own"].camera_pairs) == 15
    pairs = camera_pairs(pid, camid, np.ones(240, bool), 0)
    each = [scipy.stats.pearsonr(share[i, 0], share[j, 0]).statistic for i, j in zip(pairs.a, pairs.b, strict=True)]
    np.testing.assert_allclose(own.same_identity, np.mean(np.array(each)[pairs.same]), rtol=1e-6)


def test_agreement_file_holds_the_means_of_each_group(images: dict[str, list[dict[str, Any]]], results: Path) -> None:
    with (results / "agreement.csv").open() as file:
        rows = {(row["split"], row["measure"]): row for row in csv.DictReader(file)}
    for split in ("train", "query"):
        some = [i for i in chosen(images) if i["split"] == split and i[MAPS[1]].any()]
        a, b = (flat(some, name).reshape(len(some), -1) for name in MAPS)
        wanted = {
            "pearson": [scipy.stats.pearsonr(x, y).statistic for x, y in zip(a, b, strict=True)],
            "spearman": [scipy.stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)],
        }
        for measure, values in wanted.items():
            row = rows[split, measure]
            np.testing.assert_allclose(float(row["value"]), np.mean(values), rtol=2e-6)
            assert int(row["n_images"]) == len(some) and float(row["low"]) < float(row["value"]) < float(row["high"])


def test_outliers_are_the_farthest_from_their_identitys_mean(
    images: dict[str, list[dict[str, Any]]], results: Path
) -> None:
    some = [i for i in chosen(images) if i["pid"] is not None and i["pid"] > 0]
    maps = flat(some, MAPS[0]).astype(float)
    share = maps / measure_maps(flat(some, MAPS[0]))["mass"][:, None, None]
    pid = np.array([i["pid"] for i in some])
    distance = np.zeros(len(some))
    for p in np.unique(pid):
        distance[pid == p] = np.abs(share[pid == p] - share[pid == p].mean(axis=0)).sum(axis=(1, 2)) / 2
    order = np.argsort(-distance)[:30]
    assert (results / "outliers.txt").read_text().split() == [some[i]["key"] for i in order]


def test_consistency_file_has_every_map(results: Path) -> None:
    facts = json.loads((results / "consistency.json").read_text())
    assert set(facts["maps"]) == set(MAPS) and facts["maps"][MAPS[0]]["auc"] > 0.7  # each identity has its taste
