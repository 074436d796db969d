"""`promptsg diff` on made runs: every number against numpy, scipy and scikit-learn on arrays in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from scipy import stats as scipy_stats

from jobs.commands.diff import command
from jobs.comparison.config import DiffConfig
from jobs.comparison.diff import DiffResult, diff_runs
from jobs.comparison.measures import MEASURES
from jobs.comparison.report.figures import draw_figures
from jobs.errors import UserError
from jobs.retrieval.evaluate import evaluate
from jobs.retrieval.evaluation import EvaluateConfig
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, create_manifest
from jobs.runs.request import RecordedShard, RequestedSettings, ResolvedSettings, RunRequest
from jobs.shards.samples import NO_LABEL, Sample
from tests.support.made_runs import made_shard

MAPS = ("mim_attention", "gradcam++/mim")
SHARDS = {"gallery-000000": 36, "query-000000": 18, "train-000000": 10}
GRID = (16, 8)
Maps = dict[str, dict[str, np.ndarray]]  # shard -> map -> (n, h, w)


def samples_of(shard: str, count: int) -> list[Sample]:
    """Three images of a person in a shard, before three cameras; the first of a training shard is junk."""
    found = []
    for n in range(count):
        sample = Sample(key=f"{shard[0]}{n:03d}", tar_index=n, pid=n // 3 % 6 + 1, camid=n % 3, split=shard[:-7])
        sample.image_crc32 = 1000 + n
        found.append(sample)
    if shard.startswith("train"):
        found[0] = replace(found[0], pid=-1, role=None, identity=None)
    return found


def manifest_of(root: Path, maps: tuple[str, ...] = MAPS, model: dict[str, object] | None = None) -> Manifest:
    shards = tuple(RecordedShard(name=name, url=f"/nowhere/{name}.tar", size=1000) for name in SHARDS)
    request = RunRequest(asked=RequestedSettings(maps=maps), shards=shards)
    resolved = ResolvedSettings.model_validate({"precision": "fp32", "model": model or {}})
    return create_manifest(RunLayout(root), request, resolved)


def made_run(
    root: Path,
    seed: int,
    *,
    grid: tuple[int, int] = GRID,
    change: Callable[[str, list[Sample]], list[Sample]] = lambda shard, samples: samples,
    alter: Callable[[Maps], None] = lambda maps: None,
    model: dict[str, object] | None = None,
) -> tuple[Path, Maps, dict[str, np.ndarray]]:
    """A run, its maps, and its features by shard; each seed has other maps and features."""
    rng = np.random.default_rng(seed)
    manifest = manifest_of(root, model=model)
    samples = {shard: change(shard, samples_of(shard, count)) for shard, count in SHARDS.items()}
    kept = {shard: sum(sample.error is None for sample in of) for shard, of in samples.items()}
    maps = {s: {name: rng.random((n, *grid)).astype(np.float32) ** 3 for name in MAPS} for s, n in kept.items()}
    features = {s: rng.standard_normal((n, 12)).astype(np.float32) for s, n in kept.items()}
    for shard, of in samples.items():  # images of a person are a little alike
        pids = [sample.pid for sample in of if sample.error is None]
        features[shard] += np.stack([np.random.default_rng(1000 + pid).standard_normal(12) for pid in pids]) * 0.7
    alter(maps)
    for shard, of in samples.items():
        made_shard(root, manifest, shard, of, features=features[shard], **maps[shard])
    return root, maps, features


@dataclass(frozen=True)
class Both:
    """Two runs over the same images, with their maps and features, and the result of comparing them."""

    a: Path
    b: Path
    maps: tuple[Maps, Maps]
    features: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
    result: DiffResult

    def row(self, shard: str, n: int) -> dict[str, object]:
        """The row of diff.parquet of the n-th image of a shard."""
        (found,) = [
            row for row in pq.read_table(self.result.files.table).to_pylist()
            if (row["shard"], row["key"]) == (shard, f"{shard[0]}{n:03d}")
        ]  # fmt: skip
        return found


@pytest.fixture(scope="module", autouse=True)
def undrawn() -> Iterator[None]:
    """Comparisons draw no figures, which take most of the time; one test does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.comparison.report.files.draw_figures", lambda found: {})
        yield


@pytest.fixture(scope="module")
def both(undrawn: None, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("diff")

    def odd_a(maps: Maps) -> None:
        odd = maps["gallery-000000"]["gradcam++/mim"]
        odd[0] = 0  # without mass
        odd[1] = 3  # flat
        odd[2] = np.nan  # an image without the target's label
        odd[3] = np.round(odd[3] * 4)  # many ties
        odd[5] -= 0.2  # values below zero have no mass
        odd[6] = 0
        odd[6, 2, 3] = 1  # one patch, and zeros that are written as minus zero in the other run

    def odd_b(maps: Maps) -> None:
        odd = maps["gallery-000000"]["gradcam++/mim"]
        odd[3] = np.round(odd[3] * 4)
        odd[4] = 0
        odd[6] = -0.0
        odd[6, 2, 4] = 1

    def unlabelled(shard: str, samples: list[Sample]) -> list[Sample]:
        if shard.startswith("gallery"):
            samples[2].status = NO_LABEL
        return samples

    a, maps_a, features_a = made_run(folder / "A", 1, alter=odd_a, change=unlabelled)
    b, maps_b, features_b = made_run(folder / "B", 2, alter=odd_b)
    result = diff_runs(DiffConfig(run_a=a, run_b=b, by=("camid",), changed=7, resamples=200, seed=3))
    return Both(a, b, (maps_a, maps_b), (features_a, features_b), result)


def centre(map: np.ndarray) -> tuple[float, float]:
    """(x, y) of the centre of mass, each patch at the middle of its cell."""
    share = map / map.sum()
    h, w = map.shape
    return float(share.sum(0) @ ((np.arange(w) + 0.5) / w)), float(share.sum(1) @ ((np.arange(h) + 0.5) / h))


def area50(map: np.ndarray) -> float:
    """The smallest share of the patches that holds half of the mass."""
    held = np.cumsum(np.sort(map.ravel())[::-1]) / map.sum()
    return (int(np.argmax(held >= 0.5)) + 1) / map.size


def expected(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Each measure of two maps (h, w), computed here."""
    a, b = np.maximum(a, 0).astype(float), np.maximum(b, 0).astype(float)
    if not (np.isfinite(a).all() and np.isfinite(b).all() and a.sum() > 0 and b.sum() > 0):
        return dict.fromkeys(MEASURES, np.nan)
    top = [set(sorted(range(map.size), key=lambda i: (-map.ravel()[i], i))[: round(0.2 * map.size)]) for map in (a, b)]
    flat = np.ptp(a) == 0 or np.ptp(b) == 0
    dx, dy = np.subtract(centre(b), centre(a))
    return {
        "pearson": np.nan if flat else scipy_stats.pearsonr(a.ravel(), b.ravel()).statistic,
        "spearman": np.nan if flat else scipy_stats.spearmanr(a.ravel(), b.ravel()).statistic,
        "top20": len(top[0] & top[1]) / len(top[0]),
        "moved": 0.5 * np.abs(a / a.sum() - b / b.sum()).sum(),
        "com_shift": np.hypot(dx, dy) / np.sqrt(2),
        "com_dx": dx,
        "com_dy": dy,
        "area50_shift": area50(b) - area50(a),
    }


def test_every_measure_of_every_image_is_that_of_other_libraries(both: Both) -> None:
    rows = pq.read_table(both.result.files.table).to_pylist()
    assert len(rows) == sum(SHARDS.values())
    for row in rows:
        n = int(row["key"][1:])
        for name, column in zip(MAPS, ("mim_attention", "gradcampp_mim"), strict=True):
            want = expected(*(maps[row["shard"]][name][n] for maps in both.maps))
            found = {m: np.nan if row[f"{column}_{m}"] is None else row[f"{column}_{m}"] for m in MEASURES}
            assert found == pytest.approx(want, abs=2e-6, nan_ok=True), (row["key"], name)


def test_maps_without_a_shape_are_null_and_counted(both: Both) -> None:
    for n in (0, 2, 4):  # without mass in A, not finite in A, without mass in B
        row = both.row("gallery-000000", n)
        assert [row[f"gradcampp_mim_{measure}"] for measure in MEASURES] == [None] * len(MEASURES)
    flat = both.row("gallery-000000", 1)
    assert flat["gradcampp_mim_pearson"] is None and flat["gradcampp_mim_spearman"] is None
    assert flat["gradcampp_mim_moved"] is not None and flat["gradcampp_mim_top20"] is not None
    one = both.result.difference.maps["gradcam++/mim"]
    assert (one.zero_a.sum(), one.zero_b.sum(), one.not_finite_a.sum(), one.not_finite_b.sum()) == (1, 1, 1, 0)
    assert one.pairs.sum() == sum(SHARDS.values()) - 3
    assert "gradcam++/mim: of run A 1 map without mass and 1 not finite" in both.result.difference.notes


def table_of(both: Both) -> list[tuple[dict[str, object], int, int]]:
    """(row, camera, identity) of each pair; junk is the identity -1."""
    every = {(s, sample.key): sample for s, count in SHARDS.items() for sample in samples_of(s, count)}
    rows = pq.read_table(both.result.files.table).to_pylist()
    samples = [every[row["shard"], row["key"]] for row in rows]
    return [(row, int(s.camid or 0), int(s.pid or 0)) for row, s in zip(rows, samples, strict=True)]


def bootstrap(values: np.ndarray, who: np.ndarray, people: np.ndarray, resamples: int, seed: int) -> list[float]:
    """The ends of the 95 % interval of a mean when whole identities are drawn, resample by resample."""
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        times = np.bincount(rng.integers(len(people), size=len(people)), minlength=len(people))
        weights = times[np.searchsorted(people, who)]
        means.append((weights * values).sum() / weights.sum() if weights.sum() else np.nan)
    return np.nanpercentile(means, [2.5, 97.5]).tolist()


@pytest.mark.parametrize("measure", MEASURES)
def test_means_and_intervals_of_groups_are_those_of_a_plain_bootstrap(both: Both, measure: str) -> None:
    rows = table_of(both)
    people = np.unique([who for *_, who in rows])
    assert both.result.difference.groups["camid"].to_pylist() == [0, 1, 2]
    for group in range(3):
        chosen = [(row[f"gradcampp_mim_{measure}"], who) for row, camera, who in rows if camera == group]
        chosen = [(value, who) for value, who in chosen if value is not None]
        values, who = np.array([v for v, _ in chosen], float), np.array([w for _, w in chosen])
        found = both.result.difference.statistic("gradcam++/mim", measure, group)
        assert found.value == pytest.approx(values.mean(), abs=1e-6)
        assert [found.low, found.high] == pytest.approx(bootstrap(values, who, people, 200, 3), abs=1e-6)
        assert (found.n_images, found.n_identities) == (len(values), len({w for w in who if w != -1}))


def test_mean_maps_and_their_difference_are_those_of_the_arrays(both: Both) -> None:
    rows = table_of(both)
    one = both.result.difference.maps["mim_attention"]
    assert (one.cells, one.grid_a, one.grid_b, one.resampled) == (GRID, GRID, GRID, False)
    for group in range(3):
        a, b = (
            np.stack(
                [maps[str(row["shard"])]["mim_attention"][int(str(row["key"])[1:])] for row, c, _ in rows if c == group]
            ).astype(float)
            for maps in both.maps
        )
        a, b = (maps / maps.sum((1, 2), keepdims=True) for maps in (a, b))
        assert one.mean_a[group] == pytest.approx(a.mean(0), abs=1e-7)
        assert one.mean_b[group] == pytest.approx(b.mean(0), abs=1e-7)
        assert one.difference[group] == pytest.approx((b - a).mean(0), abs=1e-7)
        who = np.array([who for _, c, who in rows if c == group])
        people = np.unique([who for *_, who in rows])
        ends = bootstrap((b - a)[:, 3, 2], who, people, 200, 3)
        assert [one.low[group, 3, 2], one.high[group, 3, 2]] == pytest.approx(ends, abs=1e-6)


def test_the_most_changed_images_come_first(both: Both) -> None:
    rows = pq.read_table(both.result.files.table).to_pylist()
    order = sorted(rows, key=lambda row: -row["mim_attention_moved"])[:7]
    assert both.result.files.changed.read_text().split() == [row["key"] for row in order]
    assert [image.key for image in both.result.difference.changed] == [row["key"] for row in order]


def average_precisions(features: dict[str, np.ndarray]) -> dict[str, float]:
    """Key of a query -> its AP by scikit-learn; images of the same person and camera are left out."""
    from sklearn.metrics import average_precision_score  # it takes a second, and every process imports this module

    queries, gallery = samples_of("query-000000", 18), samples_of("gallery-000000", 36)
    q, g = (features[name].astype(float) for name in ("query-000000", "gallery-000000"))
    q, g = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (q, g))
    found = {}
    for query, feature in zip(queries, q, strict=True):
        kept = [n for n, s in enumerate(gallery) if not (s.pid == query.pid and s.camid == query.camid)]
        right = np.array([gallery[n].pid == query.pid for n in kept])
        found[query.key] = float(average_precision_score(right, -((g[kept] - feature) ** 2).sum(1)))
    return found


def test_ap_of_both_runs_its_change_and_what_it_correlates_with(both: Both) -> None:
    a, b = (average_precisions(features) for features in both.features)
    one = both.result.difference.retrieval
    assert one is not None and one.queries == 18 and (one.only_a, one.only_b, one.without_pair) == (0, 0, 0)
    rows = {row["key"]: row for row in one.table.to_pylist()}
    assert {key: row["ap_a"] for key, row in rows.items()} == pytest.approx(a, abs=1e-12)
    assert {key: row["ap_b"] for key, row in rows.items()} == pytest.approx(b, abs=1e-12)
    change = {key: b[key] - a[key] for key in a}
    assert list(one.won) == sorted((k for k in change if change[k] > 0), key=lambda k: -change[k])
    assert list(one.lost) == sorted((k for k in change if change[k] < 0), key=lambda k: change[k])
    assert both.result.files.won.read_text().split() == list(one.won)
    assert one.change.value == pytest.approx(np.mean(list(change.values())))
    people = np.arange(6)
    who = np.array([n // 3 % 6 for n in range(18)])
    ends = bootstrap(np.array(list(change.values())), who, people, 200, 3)
    assert [one.change.low, one.change.high] == pytest.approx(ends)
    (line,) = [line for line in one.correlations if (line.map, line.measure) == ("mim_attention", "moved")]
    moved = [both.row("query-000000", n)["mim_attention_moved"] for n in range(18)]
    assert line.spearman == pytest.approx(scipy_stats.spearmanr(moved, list(change.values())).statistic, abs=1e-6)
    assert line.pearson == pytest.approx(scipy_stats.pearsonr(moved, list(change.values())).statistic, abs=1e-5)
    parts = np.array_split(np.argsort(moved), 4)
    want = [np.mean(np.array(list(change.values()))[rows]) for rows in parts]
    assert [part.ap_change.value for part in one.parts] == pytest.approx(want)


def test_ap_is_that_of_evaluate_where_a_run_was_evaluated(both: Both, tmp_path: Path) -> None:
    a, b = (Path(shutil.copytree(run, tmp_path / run.name)) for run in (both.a, both.b))
    evaluate(EvaluateConfig(run=b, gallery_where="split <> 'query' AND pid > 0", bootstrap=10))
    found = diff_runs(DiffConfig(run_a=a, run_b=b, maps=MAPS[:1], resamples=10, output=tmp_path / "out"))
    one = found.difference.retrieval
    assert one is not None and (one.source_a, one.source_b) == ("ranked now", str(b / "evaluation"))
    assert "gallery split <> 'query' AND pid > 0" in one.settings
    rows = pq.read_table(b / "evaluation" / "queries.parquet").to_pylist()
    assert one.table["ap_b"].to_pylist() == [row["ap"] for row in rows if row["ap"] is not None]
    evaluate(EvaluateConfig(run=a, gallery_where="split <> 'query' AND pid > 0", bootstrap=10))
    rows = pq.read_table(a / "evaluation" / "queries.parquet").to_pylist()
    assert one.table["ap_a"].to_pylist() == [row["ap"] for row in rows if row["ap"] is not None]
    assert not (both.a / "evaluation").exists() and not (both.a / "diff").exists()


def test_the_files_say_what_the_result_says(both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.comparison.report.files.draw_figures", draw_figures)
    config = DiffConfig(run_a=both.a, run_b=both.b, resamples=10, output=tmp_path / "drawn")
    both = replace(both, result=diff_runs(config))
    content = json.loads(both.result.files.numbers.read_text())
    assert content["statistics"][0] == {
        "group": 0, "map": "mim_attention", "measure": "pearson",
        "value": both.result.difference.statistic("mim_attention", "pearson").value,
        "low": both.result.difference.statistic("mim_attention", "pearson").low,
        "high": both.result.difference.statistic("mim_attention", "pearson").high,
        "n_images": both.result.difference.statistic("mim_attention", "pearson").n_images,
        "n_identities": 6,
    }  # fmt: skip
    assert content["pairing"]["pairs"] == 64 and content["retrieval"]["queries"] == 18
    page = both.result.files.report.read_text()
    assert "<script" not in page and "http" not in page and page.count("data:image/png") == 3
    assert sorted(path.name for path in both.result.files.report.parent.iterdir()) == [
        "changed.txt", "diff.json", "diff.parquet", "figures", "lost.txt", "queries.parquet", "report.html", "won.txt",
    ]  # fmt: skip


def test_a_run_is_the_same_as_itself(both: Both, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(both.a), str(both.a), "--output", str(tmp_path), "--resamples", "10"])
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "diff.parquet").to_pylist()
    assert [row["mim_attention_pearson"] for row in rows] == pytest.approx([1] * 64, abs=1e-7)
    assert {row["mim_attention_moved"] for row in rows} == {0.0} == {row["mim_attention_com_shift"] for row in rows}
    assert "AP rose in 0 and fell in 0" in result.output and (tmp_path / "won.txt").read_text() == ""


def test_what_has_no_partner_is_counted_and_named(both: Both, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def other(shard: str, samples: list[Sample]) -> list[Sample]:
        if shard.startswith("train"):
            samples[1] = replace(samples[1], key="g002")  # A's t001 is missing, and g002 is in another shard too
            samples[2].fail("image_corrupt", "made up")
            samples[3].image_crc32 = 1
        if shard.startswith("gallery"):
            del samples[2]
        return [replace(sample, tar_index=n) for n, sample in enumerate(samples)]

    b, *_ = made_run(tmp_path / "B", 2, change=other)
    found = diff_runs(DiffConfig(run_a=both.a, run_b=b, resamples=10)).difference
    assert found.counts.images == 64 and found.counts.pairs == 61
    assert (found.counts.missing, found.counts.missing_keys) == (1, ["t001"])
    assert (found.counts.other_shard, found.counts.other_shard_keys) == (1, ["g002"])
    assert (found.counts.failed, found.counts.failed_keys) == (1, ["t002"])
    assert (found.counts.only_b, found.counts.other_image, found.counts.other_image_keys) == (1, 1, ["t003"])
    assert found.notes[:2] == (
        "1 image left out: not in run B (t001)",
        "1 image left out: in another shard of run B, and not joined (g002)",
    )
    assert all(note in caplog.text for note in found.notes)
    assert "1 pair with other bytes of the image in run B (t003)" in found.notes


def test_rows_in_another_order_are_joined_by_key(both: Both, tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path / "B")
    for shard, count in SHARDS.items():
        samples = [replace(s, tar_index=n) for n, s in enumerate(samples_of(shard, count)[::-1])]
        maps = {name: both.maps[1][shard][name][::-1] for name in MAPS}
        made_shard(tmp_path / "B", manifest, shard, samples, **maps)
    found = diff_runs(DiffConfig(run_a=both.a, run_b=tmp_path / "B", resamples=10))
    assert pq.read_table(found.files.table).equals(pq.read_table(both.result.files.table))


def laid_on(map: np.ndarray, cells: tuple[int, int], size: tuple[int, int], patch: int, stride: int) -> np.ndarray:
    """(h, w) overlapping patches -> the mass in each of the cells, pixel by pixel."""
    pixels = np.zeros(size)
    for (i, j), value in np.ndenumerate(map):
        pixels[i * stride : i * stride + patch, j * stride : j * stride + patch] += value / patch**2
    h, w = cells
    return pixels.reshape(h, size[0] // h, w, size[1] // w).sum((1, 3))


def test_other_grids_are_laid_on_the_same_cells_pixel_by_pixel(both: Both, tmp_path: Path) -> None:
    overlapping = {"image_size": [256, 128], "patch_size": 16, "stride": 12}
    b, maps, _ = made_run(tmp_path / "B", 4, grid=(21, 10), model=overlapping)
    for first, second, back in ((both.a, b, False), (b, both.a, True)):
        config = DiffConfig(run_a=first, run_b=second, maps=MAPS[:1], resamples=10, output=tmp_path / str(back))
        found = diff_runs(config)
        one = found.difference.maps["mim_attention"]
        assert (one.cells, one.resampled) == (GRID, True) and {one.grid_a, one.grid_b} == {GRID, (21, 10)}
        assert any("21x10" in note and "by area" in note for note in found.difference.notes)
        for row in pq.read_table(found.files.table).to_pylist()[::7]:
            shard, n = row["shard"], int(row["key"][1:])
            laid = laid_on(maps[shard]["mim_attention"][n].astype(float), GRID, (256, 128), 16, 12)
            assert laid.sum() == pytest.approx(maps[shard]["mim_attention"][n].sum())
            pair = (both.maps[0][shard]["mim_attention"][n], laid)
            want = expected(*(pair[::-1] if back else pair))
            for measure in ("pearson", "spearman", "top20", "moved"):
                assert row[f"mim_attention_{measure}"] == pytest.approx(want[measure], abs=2e-6), measure


def test_a_selection_leaves_out_queries_and_says_so(both: Both, tmp_path: Path) -> None:
    config = DiffConfig(run_a=both.a, run_b=both.b, where="camid = 1", output=tmp_path, resamples=10)
    found = diff_runs(config).difference
    assert found.counts.images == found.counts.pairs == 21 and found.counts.missing == found.counts.only_b == 0
    assert found.retrieval is not None
    assert (found.retrieval.queries, found.retrieval.without_pair) == (18, 12)
    assert {line.queries for line in found.retrieval.correlations} == {6}


def test_runs_without_anything_in_common_are_refused(both: Both, tmp_path: Path) -> None:
    def renamed(shard: str, samples: list[Sample]) -> list[Sample]:
        return [replace(sample, key=f"x{sample.key}") for sample in samples]

    other, *_ = made_run(tmp_path / "other", 2, change=renamed)
    with pytest.raises(UserError, match="have no image in common: 64 of A are not in B"):
        diff_runs(DiffConfig(run_a=both.a, run_b=other))
    assert list((other / "diff").iterdir()) == []
    with pytest.raises(UserError, match="has no map 'gradcam'"):
        diff_runs(DiffConfig(run_a=both.a, run_b=both.b, maps=("gradcam",)))
    with pytest.raises(UserError, match="--where is empty"):
        diff_runs(DiffConfig(run_a=both.a, run_b=both.b, where=" "))
    lacking = tmp_path / "lacking"
    manifest = manifest_of(lacking, maps=("rollout",))
    made_shard(lacking, manifest, "train-000000", samples_of("train-000000", 10))
    with pytest.raises(UserError, match="have no map in common"):
        diff_runs(DiffConfig(run_a=both.a, run_b=lacking))


def test_runs_of_training_images_alone_are_compared_without_retrieval(tmp_path: Path) -> None:
    runs = []
    for name, seed in (("A", 1), ("B", 2)):
        manifest = manifest_of(tmp_path / name)
        made_shard(tmp_path / name, manifest, "train-000000", samples_of("train-000000", 10), seed)
        runs.append(tmp_path / name)
    found = diff_runs(DiffConfig(run_a=runs[0], run_b=runs[1], resamples=10))
    assert found.difference.retrieval is None and found.difference.no_retrieval is not None
    assert "leaves nothing to rank" in found.difference.no_retrieval
    assert found.difference.no_retrieval.split(":")[0] in found.files.report.read_text()
    assert not found.files.won.exists() and found.difference.counts.pairs == 10
