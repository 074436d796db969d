"""`promptsg evaluate` on small runs made with the project's own writers, against DuckDB, scipy and plain loops."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from scipy import stats

from jobs.commands.evaluate import command, describe, parse_memory
from jobs.errors import UserError
from jobs.identity import NOBODY
from jobs.retrieval.consistency import _read_in_blocks, match_consistency
from jobs.retrieval.correlates import correlate_all, worst_first
from jobs.retrieval.evaluate import EvaluateConfig, evaluate
from jobs.retrieval.features import plan_block
from jobs.retrieval.rerank import RerankConfig
from jobs.retrieval.selection import as_sides, own_places
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import ResolvedSettings, RunRequest, create_manifest
from jobs.runs.run import open_run
from jobs.runs.shard_output import Results, ShardOutput
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import KEPT, NO_REFERENCE, Sample
from jobs.statistics.intervals.weighted import weighted_pearson, weighted_spearman

MAPS = ("mim_attention", "gradcam/mim")
GRID = (6, 4)


def write_run(root: Path, shards: dict[str, list[dict[str, Any]]], seed: int = 0) -> Path:
    """A run whose rows are {pid, camid, split, status, feature, ...}; what is not given is random."""
    listed = [{"name": name, "url": f"{name}.tar", "size": 1} for name in shards]
    request = RunRequest.model_validate({"asked": {"maps": list(MAPS)}, "shards": listed})
    manifest = create_manifest(RunLayout(root), request, ResolvedSettings())
    rng = np.random.default_rng(seed)
    for shard, rows in shards.items():
        output = ShardOutput(RunLayout(root), manifest, shard, max_failed_fraction=1.0)
        samples, features, maps = [], [], []
        for index, row in enumerate(rows):
            status = row.get("status", "ok")
            fields = {name: row.get(name) for name in ("pid", "camid", "role", "identity")}
            split = row.get("split", shard.split("-")[0])
            key = row.get("key", f"{shard}_{index:04d}")
            samples.append(Sample(key=key, tar_index=index, split=split, status=status, **fields))
            if status in KEPT:
                features.append(row.get("feature", rng.normal(size=8)))
                maps.append(row.get("map", rng.random((len(MAPS), *GRID)) ** rng.uniform(1, 6)))
        count = len(features)
        stacked = np.array(maps, np.float32).reshape(count, len(MAPS), *GRID)
        results = Results(
            maps={name: stacked[:, i] for i, name in enumerate(MAPS)},
            features=np.array(features, np.float32).reshape(count, -1),
            score=np.zeros(count, np.float32),
            predicted=np.zeros(count, np.int64),
            probability=np.ones(count, np.float32),
        )
        output.add(SampleColumns.of(samples), results if count else None)
        assert output.commit()[0]
    return root


def rows_of(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of 6 identities in 3 cameras whose features say something of the identity, all images of a pid alike."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(7, 8))
    rows = []
    for _ in range(count):
        pid = int(rng.integers(1, 7))
        rows.append({"pid": pid, "camid": int(rng.integers(0, 3)), "feature": centres[pid] + rng.normal(size=8)})
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 queries in two shards, 70 gallery images in two; junk, distractors, failures, and a query without a match."""
    queries = [*rows_of(22, 1), {"pid": 77, "camid": 0}, {"pid": None, "camid": 1}]
    copies = rows_of(30, 3)
    gallery = [*rows_of(40, 2), *copies]
    more = [
        *copies[:5],  # equal features: ties across shards
        *({"pid": -1, "camid": c, "feature": queries[0]["feature"]} for c in (0, 1)),
        *({"pid": 0, "camid": c, "key": f"0000_c{c + 1}s1_000151_01"} for c in (0, 1, 2)),
        {"pid": 3, "camid": None},
        {"status": "image_corrupt"},
    ]
    shards = {"query-000000": queries[:10], "query-000001": queries[10:], "gallery-000000": gallery}
    return write_run(tmp_path_factory.mktemp("made") / "RUN", {**shards, "gallery-000001": more})


def test_the_command_and_the_function_have_the_same_defaults(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = []

    def keep(config: EvaluateConfig) -> None:
        configs.append(config)
        raise UserError("enough")

    monkeypatch.setattr("jobs.retrieval.evaluate.evaluate", keep)
    run_command(made)
    run_command(made, "--rerank")
    assert configs == [EvaluateConfig(run=made), EvaluateConfig(run=made, rerank=RerankConfig())]


def run_command(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def evaluated(run: Path, output: Path, *words: object) -> dict[str, Any]:
    result = run_command(run, "--output", output, "--bootstrap", 50, "--json", *words)
    assert result.exit_code == 0, result.exception
    metrics: dict[str, Any] = json.loads(result.output)
    assert metrics == json.loads((output / "metrics.json").read_text())
    return metrics


def literal(run: Path) -> list[dict[str, Any]]:
    """Per query the ranked gallery, from the files alone."""
    opened = open_run(run)
    rows = [row for row in opened.metadata().to_table().to_pylist() if row["h5_row"] is not None]
    for row in rows:
        feature = opened.read_features(row["shard"])[row["h5_row"]].astype(float)
        row["feature"] = feature / np.sqrt((feature**2).sum())
    known = [row for row in rows if row["pid"] is not None and row["camid"] is not None]
    found = []
    for query in (row for row in known if row["split"] == "query"):
        ranked = []
        for image in known:
            same = image["pid"] == query["pid"]
            if image["split"] == "gallery" and image["pid"] != -1 and not (same and image["camid"] == query["camid"]):
                ranked.append((float(((image["feature"] - query["feature"]) ** 2).sum()), len(ranked), same, image))
        ranked.sort(key=lambda entry: entry[:2])
        hits = [rank for rank, entry in enumerate(ranked, 1) if entry[2]]
        ap = sum((i + 1) / rank for i, rank in enumerate(hits)) / len(hits) if hits else None
        found.append({"query": query, "ranked": ranked, "hits": hits, "ap": ap})
    return found


def test_the_files_say_what_plain_loops_say(made: Path, tmp_path: Path) -> None:
    metrics = evaluated(made, tmp_path / "out", "--topk", 7)
    wanted = literal(made)
    table = pq.read_table(tmp_path / "out" / "queries.parquet")
    assert table.schema.field("topk_distances").type == pa.list_(pa.float64())
    assert table.schema.field("ap").nullable and not table.schema.field("key").nullable
    for row, want in zip(table.to_pylist(), wanted, strict=True):
        hits, nearest = want["hits"], [entry[3] for entry in want["ranked"][:7]]
        assert (row["shard"], row["key"]) == (want["query"]["shard"], want["query"]["key"])
        assert row["ap"] == (pytest.approx(want["ap"], rel=1e-12) if hits else None)
        assert row["inp"] == (pytest.approx(len(hits) / hits[-1], rel=1e-12) if hits else None)
        assert row["first_hit_rank"] == (hits[0] if hits else None) and row["num_matches"] == len(hits)
        assert row["rank1_correct"] == (hits[0] == 1 if hits else None)
        for column, name in (("keys", "key"), ("shards", "shard"), ("h5_rows", "h5_row"), ("pids", "pid")):
            assert row[f"topk_{column}"] == [image[name] for image in nearest]
        assert row["topk_camids"] == [image["camid"] for image in nearest]
        assert row["topk_correct"] == [entry[2] for entry in want["ranked"][:7]]
        np.testing.assert_allclose(row["topk_distances"], [entry[0] for entry in want["ranked"][:7]], rtol=1e-10)
    scored = [want for want in wanted if want["hits"]]
    assert metrics["queries"] == len(scored) == 22 and metrics["queries_without_match"] == 1
    assert metrics["mAP"] == pytest.approx(np.mean([want["ap"] for want in scored]), rel=1e-12)
    for rank in (1, 5, 10, 20):
        assert metrics["cmc"][rank - 1] == np.mean([want["hits"][0] <= rank for want in scored])
    assert (metrics["queries_without_label"], metrics["gallery_without_label"], metrics["gallery_junk"]) == (1, 1, 2)
    assert metrics["gallery"] == 78 and metrics["selected_gallery"] == 81
    wrong = sorted((want for want in scored if want["hits"][0] > 1), key=lambda want: want["ap"])
    assert (tmp_path / "out" / "failures.txt").read_text().splitlines() == [want["query"]["key"] for want in wrong]
    assert 0 < metrics["wrong_rank1"] == len(wrong) < 22
    found = duckdb.sql(
        f"SELECT avg(ap), count(*) FROM '{tmp_path}/out/queries.parquet' WHERE ap IS NOT NULL"
    ).fetchall()
    assert found == [(pytest.approx(metrics["mAP"]), 22)]


def test_the_result_says_what_the_files_say(made: Path, tmp_path: Path) -> None:
    found = evaluate(EvaluateConfig(run=made, output=tmp_path, bootstrap=50, query_where="split = 'query' AND true"))
    metrics = json.loads(found.files.metrics.read_text())
    assert (found.scores.queries, found.scores.mAP, found.scores.mINP) == tuple(
        metrics[name] for name in ("queries", "mAP", "mINP")
    )
    assert list(found.scores.cmc) == metrics["cmc"] and found.wrong_rank1 == metrics["wrong_rank1"]
    assert [(p.query_camid, p.gallery_camid, p.scores.mAP) for p in found.camera_pairs] == [
        (p["query_camid"], p["gallery_camid"], p["mAP"]) for p in metrics["camera_pairs"]
    ]
    assert [(c.map, c.measure, c.spearman) for c in found.correlations] == [
        (c["map"], c["measure"], c["spearman"]) for c in metrics["why"]
    ]
    assert (found.gallery.selected, found.gallery.without_label, found.gallery.ranked) == (81, 1, 78)
    assert (found.gallery.junk, found.gallery.distractors) == (2, 3)
    assert (found.queries.junk, found.queries.distractors, found.queries.ranked) == (0, 0, 23)
    said = describe(found)
    assert "Correlation of AP with" in said and str(found.files.queries) in said and " -> " not in said
    assert "2 junk images" in said and "3 gallery images are distractors" in said
    (following,) = [line for line in said.splitlines() if line.startswith("next: ")]
    assert shlex.split(following)[1:5] == ["promptsg", "render", str(found.config.run), "--style"]
    assert str(found.files.failures) in shlex.split(following)
    last = said.splitlines()[-1].split()  # the overall scores
    assert (int(last[0]), float(last[1])) == (found.scores.queries, round(100 * metrics["mAP"], 2))
    assert describe(found, per_camera=True).count(" -> ") == len(found.camera_pairs) + 1


def test_nearly_parallel_features_are_told_with_the_other_neck(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"pid": pid, "camid": camid, "feature": np.ones(8) + 0.01 * rng.normal(size=8)}
        for pid in range(5)
        for camid in range(2)
    ]
    run = write_run(tmp_path / "RUN", {"query-0": rows[::2], "gallery-0": rows[1::2]})
    found = evaluate(EvaluateConfig(run=run, bootstrap=10))
    features = np.array([row["feature"] for row in rows[1::2]], np.float32)
    assert found.median_cosine == pytest.approx(np.median(_cosines(features)), abs=1e-6) and found.median_cosine > 0.99
    assert found.near_parallel is not None and "nearly parallel" in describe(found)
    other = evaluate(
        EvaluateConfig(run=run, bootstrap=10, output=tmp_path / "b", gallery_where="split = 'gallery' AND pid = 1")
    )
    assert other.median_cosine is None and other.near_parallel is None  # a single image


def _cosines(features: np.ndarray) -> list[float]:
    unit = [row / np.linalg.norm(row) for row in features.astype(np.float64)]
    return [float(a @ b) for place, a in enumerate(unit) for b in unit[place + 1 :]]


def test_different_distractors_are_different_people(tmp_path: Path) -> None:
    """As queries they match nobody: not each other, and not themselves in another camera."""
    feature = np.ones(8)
    key = "0000_c{}s1_000151_{:02d}"
    queries = [{"pid": 0, "camid": 0, "feature": feature, "key": key.format(1, 1)}, {"pid": 5, "camid": 0}]
    gallery = [{"pid": 0, "camid": c, "feature": feature, "key": key.format(c + 1, 2)} for c in (0, 1, 2)]
    run = write_run(tmp_path / "RUN", {"query-0": queries, "gallery-0": [*gallery, {"pid": 5, "camid": 1}]})
    found = evaluate(EvaluateConfig(run=run, bootstrap=10))
    assert (found.scores.queries, found.queries_without_match, found.gallery.distractors) == (1, 1, 3)
    first = pq.read_table(found.files.queries).to_pylist()[0]
    assert first["num_matches"] == 0 and first["ap"] is None
    assert len(first["topk_keys"]) == 4 and first["topk_correct"] == [False] * 4


def test_person_0_of_msmt17_is_a_person(tmp_path: Path) -> None:
    key = "0000_{:03d}_0{}_0303morning_0015_0"
    queries = [{"pid": 0, "camid": 0, "key": key.format(1, 1)}]
    gallery = [{"pid": 0, "camid": c, "key": key.format(c, c + 1)} for c in (1, 2)]
    run = write_run(tmp_path / "RUN", {"query-0": queries, "gallery-0": gallery})
    found = evaluate(EvaluateConfig(run=run, bootstrap=10))
    assert (found.scores.queries, found.scores.mAP, found.gallery.distractors) == (1, 1, 0)


def test_the_columns_role_and_identity_say_who_is_who() -> None:
    def rows(*images: tuple[int, str, str | None]) -> pa.Table:
        pid, role, identity = zip(*images, strict=True)
        columns = {"key": ["k"] * len(pid), "pid": pid, "camid": [0] * len(pid), "role": role, "identity": identity}
        return pa.table(columns)

    queries, gallery = as_sides(
        rows((2, "person", "train/2"), (2, "person", "test/2"), (0, "person", "test/0")),
        rows((2, "person", "test/2"), (0, "distractor", None), (7, "person", "train/2"), (0, "person", "test/0")),
    )
    same = queries.identity[:, None] == gallery.identity[None]
    np.testing.assert_array_equal(same, [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    assert gallery.identity.tolist().count(NOBODY) == 1 and NOBODY not in queries.identity


def test_a_camera_pair_is_the_ranking_of_that_part_alone(made: Path, tmp_path: Path) -> None:
    whole = evaluated(made, tmp_path / "whole")
    assert [(p["query_camid"], p["gallery_camid"]) for p in whole["camera_pairs"]] == [
        (q, g) for q in range(3) for g in range(3) if q != g
    ]
    for pair in whole["camera_pairs"]:
        asked, ranked = (f"split = '{s}' AND camid = {pair[f'{s}_camid']}" for s in ("query", "gallery"))
        part = evaluated(made, tmp_path / "part", "--query-where", asked, "--gallery-where", ranked)
        for name in ("queries", "mAP", "mINP", "cmc"):
            assert part[name] == pytest.approx(pair[name], rel=1e-12)


@pytest.mark.parametrize("extra", [(), ("--rerank", "--k1", "6", "--k2", "3")])
def test_the_block_changes_nothing(made: Path, tmp_path: Path, extra: tuple[str, ...]) -> None:
    one = evaluated(made, tmp_path / "one", *extra)
    other = evaluated(made, tmp_path / "other", "--block", 3, *extra)
    assert one == other
    assert one["rerank"] == ({"k1": 6, "k2": 3, "weight": 0.3} if extra else None)
    for name in ("queries.parquet", "failures.txt", "why.csv", "metrics.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_a_second_call_writes_over_the_first(made: Path, tmp_path: Path) -> None:
    evaluated(made, tmp_path, "--topk", 1)
    evaluated(made, tmp_path, "--topk", 2)
    assert len(pq.read_table(tmp_path / "queries.parquet")["topk_keys"][0]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["failures.txt", "metrics.json", "queries.parquet", "why.csv"]


def test_the_table_can_be_read(made: Path, tmp_path: Path) -> None:
    result = run_command(made, "--output", tmp_path, "--bootstrap", 20)
    assert result.exit_code == 0, result.exception
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    line = result.output.splitlines()[-1]
    shown = [100 * v for v in (metrics["mAP"], metrics["mINP"], *(metrics["cmc"][r - 1] for r in (1, 5, 10, 20)))]
    assert line.split()[0] == "22" and line.split()[1:] == [f"{v:.2f}" for v in shown]
    assert "1 query without a match, 1 query and 1 gallery image without pid or camid, 2 junk images" in result.output
    assert f"{metrics['wrong_rank1']} queries have a wrong first image: {tmp_path}/failures.txt" in result.output


def test_correlations_are_scipys(made: Path, tmp_path: Path) -> None:
    evaluated(made, tmp_path)
    rows = list(csv.DictReader((tmp_path / "why.csv").open()))
    assert [row["map"] for row in rows[::6]] == list(MAPS) and len(rows) == 12
    measures = duckdb.sql(f"""
        SELECT q.ap, m.* FROM '{tmp_path}/queries.parquet' q JOIN '{made}/metadata/*.parquet' m USING (shard, key)
        WHERE q.ap IS NOT NULL ORDER BY m.shard, m.tar_index""").fetchnumpy()
    border = np.asarray(measures["gradcam_mim_stripe_0"] + measures["gradcam_mim_stripe_5"], float)
    values = {"border": border, "off_centre": np.abs(np.asarray(measures["gradcam_mim_com_x"], float) - 0.5)}
    values |= {name: np.asarray(measures[f"gradcam_mim_{name}"], float) for name in ("entropy", "area50", "mass")}
    assert {row["measure"] for row in rows[6:]} == {*values, "consistency"}
    for row in rows[6:]:
        if row["measure"] in values:
            assert row["queries"] == "22" and row["identities"] == str(len(set(measures["pid"].tolist())))
            x, y = np.asarray(measures["ap"], float), values[row["measure"]]
            assert float(row["pearson"]) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-6)
            assert float(row["spearman"]) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-6)
            assert float(row["spearman_low"]) < float(row["spearman"]) < float(row["spearman_high"])


def test_consistency_is_the_correlation_with_the_mean_of_the_matches(made: Path) -> None:
    run = open_run(made)
    rows = run.metadata().to_table()
    keep = [r["h5_row"] is not None and None not in (r["pid"], r["camid"]) for r in rows.to_pylist()]
    rows = rows.filter(pa.array(keep))
    queries, gallery = (rows.filter(pa.compute.equal(rows["split"], split)) for split in ("query", "gallery"))
    found = match_consistency(run, "gradcam/mim", *as_sides(queries, gallery.take(np.arange(len(gallery))[::-1])))
    images, asked = (run.maps_of("gradcam/mim", t).reshape(len(t), -1).astype(float) for t in (gallery, queries))
    for position, query in enumerate(queries.to_pylist()):
        matches = [
            image / image.sum()
            for image, row in zip(images, gallery.to_pylist(), strict=True)
            if row["pid"] == query["pid"] and row["camid"] != query["camid"]
        ]
        if matches:
            wanted = stats.pearsonr(asked[position], np.mean(matches, axis=0)).statistic
            assert found[position] == pytest.approx(wanted, abs=1e-9)
        else:
            assert np.isnan(found[position])
    assert np.isfinite(found).sum() == 22


def test_weights_stand_for_repeated_queries() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 40).astype(float), rng.normal(size=40)
    weights = rng.integers(0, 4, (5, 40)).astype(float)
    for row, pearson, spearman in zip(
        weights, weighted_pearson(x, y, weights), weighted_spearman(x, y, weights), strict=True
    ):
        repeated = np.repeat(np.arange(40), row.astype(int))
        assert pearson == pytest.approx(stats.pearsonr(x[repeated], y[repeated]).statistic, abs=1e-12)
        assert spearman == pytest.approx(stats.spearmanr(x[repeated], y[repeated]).statistic, abs=1e-12)


def test_intervals_hold_identities_together() -> None:
    rng = np.random.default_rng(4)
    identity = np.repeat(np.arange(30), 20)
    x = np.repeat(rng.normal(size=30), 20)  # all queries of one identity are alike
    y = x + np.repeat(rng.normal(size=30), 20)
    (found,) = correlate_all(x, identity, {("m", "entropy"): y}, samples=2000, seed=1)
    (alone,) = correlate_all(x, np.arange(600), {("m", "entropy"): y}, samples=2000, seed=1)
    assert found.identities == 30 and found.pearson == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.pearson_high - found.pearson_low > 3 * (alone.pearson_high - alone.pearson_low)
    again = correlate_all(x, identity, {("m", "entropy"): y}, samples=2000, seed=1)[0]
    assert again == found != correlate_all(x, identity, {("m", "entropy"): y}, samples=2000, seed=2)[0]


def test_what_does_not_vary_has_no_correlation() -> None:
    ap, pid = np.array([0.1, 0.5, 0.9, np.nan]), np.array([1, 2, 3, 4])
    flat = 1 + 1e-7 * np.array([1.0, -1.0, 0.5, 0.0])  # an attention map's mass: 1 and rounding
    unknown = np.array([1.0, 2.0, np.nan, 3.0])
    measures = {("m", "mass"): flat, ("m", "entropy"): unknown, ("m", "border"): np.full(4, np.nan)}
    mass, entropy, border = correlate_all(ap, pid, measures, samples=20, seed=0)
    assert (mass.queries, mass.pearson, mass.spearman, mass.pearson_low) == (3, None, None, None)
    assert (entropy.queries, entropy.pearson, entropy.identities) == (2, None, 2)
    assert (border.queries, border.spearman, border.identities) == (0, None, 0)
    one = correlate_all(ap, np.ones(4, int), {("m", "mass"): np.arange(4.0)}, samples=20, seed=0)[0]
    assert one.spearman == pytest.approx(1) and one.spearman_low is None  # one identity cannot be resampled
    assert worst_first(["a", "b", "c", "d"], ap[[2, 0, 0, 3]], np.array([True, True, True, False])) == ["b", "c", "a"]


def test_maps_without_mass_are_left_out(tmp_path: Path) -> None:
    zero = np.zeros((len(MAPS), *GRID))
    queries = [{"pid": p, "camid": 0, **({"map": zero} if p == 2 else {})} for p in (1, 2, 3, 4, 5)]
    gallery = [{"pid": p, "camid": 1, **({"map": zero} if p == 3 else {})} for p in (1, 2, 3, 4, 5)]
    write_run(tmp_path / "RUN", {"query-0": queries, "gallery-0": gallery})
    metrics = evaluated(tmp_path / "RUN", tmp_path / "out")
    counts = {line["measure"]: line["queries"] for line in metrics["why"][:6]}
    assert counts == {"entropy": 4, "area50": 4, "off_centre": 4, "border": 4, "mass": 5, "consistency": 3}


def test_images_without_a_target_have_features_and_take_part(tmp_path: Path) -> None:
    half = np.stack([np.random.default_rng(0).random(GRID), np.full(GRID, np.nan)])  # a MIM map, no gradient map
    queries = [{"pid": p, "camid": 0, "status": NO_REFERENCE if p == 1 else "ok"} for p in (1, 2, 3, 4)]
    queries[0]["map"] = half
    gallery = [{"pid": p, "camid": 1} for p in (1, 2, 3, 4)]
    write_run(tmp_path / "RUN", {"query-0": queries, "gallery-0": gallery})
    metrics = evaluated(tmp_path / "RUN", tmp_path / "out")
    assert metrics["queries"] == 4
    assert [line["queries"] for line in metrics["why"]] == [4] * 6 + [3] * 6


def test_no_query_has_a_match(tmp_path: Path) -> None:
    write_run(tmp_path / "RUN", {"query-0": [{"pid": 1, "camid": 0}], "gallery-0": [{"pid": 1, "camid": 0}]})
    metrics = evaluated(tmp_path / "RUN", tmp_path / "out")
    assert (metrics["queries"], metrics["queries_without_match"], metrics["mAP"]) == (0, 1, None)
    (row,) = pq.read_table(tmp_path / "out" / "queries.parquet").to_pylist()
    assert row["ap"] is None and row["rank1_correct"] is None and row["topk_keys"] == []
    assert (tmp_path / "out" / "failures.txt").read_text() == ""
    assert run_command(tmp_path / "RUN", "--output", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--query-where", "split = 'no'"], r"--query-where \"split = 'no'\" leaves nothing to rank: 0 images"),
        (["--query-where", "split = 'no'"], r"the run has the splits gallery, query$"),
        (["--gallery-where", "pid < 0"], r"leaves nothing to rank: 2 images with features, 0 of them .* 2 junk"),
        (["--gallery-where", "camid IS NULL"], r"1 image with features, 1 of them without pid or camid"),
        (["--query-where", "splt = 'query'"], r"--query-where: there is no column 'splt'; did you mean split"),
        (["--gallery-where", "split = 'gallery')"], r"--gallery-where: Parser Error: syntax error"),
        (["--gallery-where", "true) OR (true"], r"--gallery-where: Parser Error: syntax error"),
        (["--query-where", " "], r"--query-where is empty; give an SQL expression"),
        (["--memory", "1MB"], r"needs up to .* GB, and --memory allows 0.00 GB: raise it to 0.5GB"),
        (["--memory", "2 apples"], r"'2 apples' is not a size such as 2GB; units are B, KB"),
    ],
)
def test_errors_say_what_to_do(made: Path, tmp_path: Path, words: list[str], message: str) -> None:
    error = run_command(made, "--output", tmp_path, *words).exception
    assert isinstance(error, UserError)
    with pytest.raises(UserError, match=message):
        raise error


def test_no_shard_is_done(tmp_path: Path) -> None:
    write_run(tmp_path / "RUN", {})
    error = run_command(tmp_path / "RUN").exception
    assert isinstance(error, UserError) and "has no finished shard" in str(error)


def test_a_run_that_is_not_complete_is_evaluated_with_a_warning(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(made, tmp_path / "RUN")
    (tmp_path / "RUN/metadata/gallery-000001.parquet").unlink()
    assert run_command(tmp_path / "RUN").exit_code == 0
    assert caplog.messages == [
        f"{tmp_path / 'RUN'}: 1 of 4 shards are not done, and their images are left out: gallery-000001"
    ]


def test_the_plan_keeps_to_its_memory() -> None:
    assert parse_memory("2GB") == 2 * 10**9 and parse_memory("1.5 KiB") == 1536 and parse_memory("7") == 7
    assert plan_block(3368, 15913, 1280, 2 * 10**9) == 1024
    block = plan_block(20_000, 200_000, 1280, 2 * 10**9)
    assert 220_000 * 1280 * 4 + block * 200_000 * 4 < 2 * 10**9 and block >= 128
    with pytest.raises(UserError, match=r"re-ranking 20,000 queries against 200,000 images needs up to \d+\.\d\d GB"):
        plan_block(20_000, 200_000, 1280, 2 * 10**9, RerankConfig())
    assert plan_block(3368, 15913, 1280, 3 * 10**9, RerankConfig()) > 0


def test_identities_decide_not_pids(tmp_path: Path) -> None:
    """Pids that start again, as in MSMT17; a distractor and junk by their role; an image that has only an identity."""
    near, far = [1.0, 0, 0, 0, 0, 0, 0, 0], [0.9, 0.1, 0, 0, 0, 0, 0, 0]
    queries = [
        {"pid": 2, "camid": 0, "identity": "test/2", "feature": near},
        {"pid": None, "camid": 0, "identity": "alice", "feature": near},
        {"pid": 7, "camid": 0, "role": "distractor", "feature": near},
        {"pid": 8, "camid": 0, "role": "distractor", "feature": near},
    ]
    gallery = [
        {"pid": 2, "camid": 1, "identity": "train/2", "feature": near},  # another person of the same pid
        {"pid": 2, "camid": 1, "identity": "test/2", "feature": far},
        {"pid": None, "camid": 1, "identity": "alice", "feature": far},
        {"pid": 7, "camid": 1, "role": "distractor", "feature": near},
        {"pid": 2, "camid": 1, "role": "junk", "feature": near},
        {"pid": 3, "camid": 1, "identity": "test/3", "feature": [0, 0, 1.0, 0, 0, 0, 0, 0]},
    ]
    run = write_run(tmp_path / "RUN", {"query-000000": queries, "gallery-000000": gallery})
    metrics = evaluated(run, tmp_path / "out")
    assert (metrics["queries"], metrics["queries_without_match"], metrics["queries_without_label"]) == (2, 2, 0)
    assert (metrics["gallery"], metrics["gallery_junk"]) == (5, 1)
    rows = pq.read_table(tmp_path / "out" / "queries.parquet").to_pylist()
    assert [row["first_hit_rank"] for row in rows] == [3, 4, None, None]  # train/2 and the distractor are nearer
    assert [row["ap"] for row in rows] == [1 / 3, 1 / 4, None, None]
    assert [row["pid"] for row in rows] == [2, None, 7, 8]
    assert [row["topk_correct"] for row in rows[2:]] == [[False] * 5] * 2


def test_one_camera_is_told_and_its_images_can_be_kept(tmp_path: Path) -> None:
    """Queries that are also in the gallery: with the same camera kept, only the image itself is left out."""
    rng = np.random.default_rng(0)
    rows = [{"pid": 1 + n // 3, "camid": 0, "map": rng.random((len(MAPS), *GRID))} for n in range(9)]
    rows += [{"pid": 9, "camid": 0}]  # nobody else shows person 9, in any camera
    run = write_run(tmp_path / "RUN", {"all-000000": rows})
    everything = ("--query-where", "true", "--gallery-where", "true")
    metrics = evaluated(run, tmp_path / "without", *everything)
    assert (metrics["queries"], metrics["mAP"], metrics["queries_without_match"]) == (0, None, 10)
    assert (metrics["queries_only_in_own_camera"], metrics["same_camera"]) == (9, "left out")
    printed = run_command(run, "--output", tmp_path / "printed", "--bootstrap", 2, *everything).output
    assert "9 queries without a match: the gallery shows the person in the query's own camera only" in printed
    assert "--keep-same-camera ranks them" in printed

    metrics = evaluated(run, tmp_path / "kept", "--keep-same-camera", *everything)
    assert (metrics["queries"], metrics["queries_without_match"], metrics["same_camera"]) == (9, 1, "kept")
    assert metrics["queries_only_in_own_camera"] == 0
    unit = open_run(run).read_features("all-000000").astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for query, row in enumerate(pq.read_table(tmp_path / "kept" / "queries.parquet").to_pylist()):
        order = [n for n in np.argsort(-unit @ unit[query], kind="stable").tolist() if n != query]
        hits = [rank for rank, n in enumerate(order, 1) if rows[n]["pid"] == rows[query]["pid"]]
        assert row["topk_h5_rows"] == order and row["num_matches"] == len(hits)
        assert row["ap"] == (pytest.approx(np.mean([(i + 1) / rank for i, rank in enumerate(hits)])) if hits else None)


def test_consistency_with_the_own_camera_is_that_with_all_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [{"pid": 1 + n % 2, "camid": n % 3, "map": rng.random((len(MAPS), *GRID))} for n in range(8)]
    run = open_run(write_run(tmp_path / "RUN", {"b-0": rows[:4], "a-0": rows[4:]}))
    table = run.metadata().to_table()
    queries, gallery = as_sides(table.take([6, 1, 4]), table.slice(0, 7))
    own = own_places(queries, gallery)
    assert own.tolist() == [6, 1, 4]
    found = match_consistency(run, "mim_attention", queries, gallery, own)
    shares = run.maps_of("mim_attention", table).reshape(8, -1).astype(float)
    shares /= shares.sum(axis=1, keepdims=True)
    pids = table["pid"].to_pylist()
    for position, image in enumerate((6, 1, 4)):
        others = [n for n in range(7) if n != image and pids[n] == pids[image]]
        wanted = stats.pearsonr(shares[image], shares[others].mean(axis=0)).statistic
        assert found[position] == pytest.approx(wanted, abs=1e-9)
    beyond, _ = as_sides(table.slice(7, 1), table)
    assert own_places(beyond, gallery).tolist() == [-1]


def test_maps_are_read_by_shard_in_one_sort() -> None:
    """At 10,000 shards of 10 images each, comparing all rows once per shard would take a minute."""
    shards, images = 10_000, 10
    names = [f"s{n:05d}" for n in range(shards)]
    rows = np.tile(np.arange(images)[::-1], shards)
    table = pa.table({"shard": np.repeat(names, images), "h5_row": rows})

    class Reader:
        def maps_of(self, name: str, rows: pa.Table) -> np.ndarray:
            return np.zeros((len(rows), 1, 1), np.float32)

    started = time.process_time()
    blocks = list(_read_in_blocks(Reader(), "m", table, np.arange(len(table))))  # type: ignore[arg-type]
    assert time.process_time() - started < 8
    wanted = [list(range(10 * n + 9, 10 * n - 1, -1)) for n in range(shards)]
    assert [positions.tolist() for positions, _ in blocks] == wanted
