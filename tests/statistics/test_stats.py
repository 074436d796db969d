"""`promptsg stats` against numpy on arrays held in memory: groups, maps, intervals, blocks, odd inputs, the report."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from cam.measures import measure_maps
from jobs.commands.stats import command, parse_block
from jobs.errors import UserError
from jobs.runs.finalize import finalize
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, ResolvedSettings, RunRequest, create_manifest, read_manifest
from jobs.runs.run import open_run
from jobs.runs.shard_output import Results, ShardOutput
from jobs.runs.verify import verify
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import Sample
from jobs.statistics.chosen import choose_images
from jobs.statistics.expressions import count_images
from jobs.statistics.question import make_question
from jobs.statistics.sampling import sampled_images
from jobs.statistics.stats import ShardBlock, StatsConfig, stats
from jobs.statistics.stored import areas_of, stored_columns
from tests.runs.test_verify import rewrite
from tests.support.made_runs import as_first_version

MAPS = ("mim_attention", "gradcam++/mim")
SHARDS = {"train-000000": 700, "train-000001": 1100, "query-000000": 260}


def build_run(root: Path, shards: dict[str, list[dict[str, Any]]]) -> Path:
    """Writes a run through the project's own writers; each image is a dict with key, pid, camid and a map per name."""
    layout = RunLayout(root)
    entries = [{"name": name, "url": f"{name}.tar", "size": 1} for name in sorted(shards)]
    manifest = create_manifest(
        layout, RunRequest.model_validate({"asked": {"maps": list(MAPS)}, "shards": entries}), ResolvedSettings()
    )
    for name, images in shards.items():
        write_shard(layout, manifest, name, images)
    return root


def write_shard(layout: RunLayout, manifest: Manifest, name: str, images: list[dict[str, Any]]) -> None:
    output = ShardOutput(layout, manifest, name, 1.0)
    for start in range(0, len(images), 300):
        some = images[start : start + 300]
        samples = [
            Sample(
                key=i["key"],
                tar_index=start + n,
                pid=i["pid"],
                identity=i.get("identity"),
                camid=i["camid"],
                split=name.split("-")[0],
            )
            for n, i in enumerate(some)
        ]
        for sample, image in zip(samples, some, strict=True):
            if image.get("failed"):
                sample.fail("image_corrupt", "cannot be decoded")
        good = [i for i in some if not i.get("failed")]
        maps = {m: np.stack([i[m] for i in good]).astype(np.float32) for m in MAPS}
        ones = np.ones(len(good), np.float32)
        features, kinds = np.ones((len(good), 3), np.float32), np.zeros(len(good), np.int64)
        output.add(
            SampleColumns.of(samples),
            Results(maps=maps, features=features, score=ones, predicted=kinds, probability=ones),
        )
    assert output.commit()[0]


def made_up(seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """2,060 images: 89 identities, distractors, junk, NULL pids and cameras, failed images, all-zero maps."""
    rng = np.random.default_rng(seed)
    taste = rng.gamma(1, 1, (90, 12, 5))
    shards: dict[str, list[dict[str, Any]]] = {}
    for name, count in SHARDS.items():
        shards[name] = []
        for n in range(count):
            pid = int(rng.integers(90))
            # Keys as those of Market-1501, in which pid 0 is a distractor.
            image = {"key": f"{pid:04d}_c1s{len(shards)}_{n:06d}_01", "pid": pid, "camid": int(rng.integers(3))}
            image |= {m: taste[pid] * rng.gamma(2, 1, (12, 5)) * rng.uniform(0.1, 9) for m in MAPS}
            draw = rng.random()
            image |= {"pid": -1} if draw < 0.03 else {"pid": None} if draw > 0.98 else {}
            image |= {"camid": None} if rng.random() < 0.04 else {}
            image |= {MAPS[1]: np.zeros((12, 5))} if rng.random() < 0.05 else {}
            image |= {"failed": True} if rng.random() < 0.02 else {}
            shards[name].append(image)
    return shards


@pytest.fixture(scope="module")
def images() -> dict[str, list[dict[str, Any]]]:
    return made_up()


@pytest.fixture(scope="module")
def run(images: dict[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("stats") / "RUN", images)


def run_command(*words: object) -> Result:
    """Runs the command; a UserError is raised as it is."""
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False, standalone_mode=False)


def of_run(run: Path, *words: object, output: Path | None = None) -> Path:
    """The folder of the results."""
    folder = output or run / "stats"
    assert run_command(run, *words, "--output", folder, "--resamples", 50).exit_code == 0
    return folder


def table(folder: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """(group values..., map, measure) -> row of stats.parquet."""
    rows = pq.read_table(folder / "stats.parquet").to_pylist()
    names = list(rows[0])[:-5]
    return {tuple(row[name] for name in names): row for row in rows}


def chosen(images: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [i | {"split": s.split("-")[0]} for s, some in images.items() for i in some if not i.get("failed")]


def flat(some: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    return np.stack([i[name] for i in some]).astype(np.float32)


@pytest.fixture(scope="module")
def by_camera(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    assert run_command(run, "--by", "camid", "--output", folder, "--resamples", 60, "--seed", 5).exit_code == 0
    return folder


def test_means_are_those_of_arrays_in_memory(images: dict[str, list[dict[str, Any]]], by_camera: Path) -> None:
    found, all_images = table(by_camera), chosen(images)
    assert sum(row["value"] for key, row in found.items() if key[1:] == (MAPS[0], "images")) == len(all_images) > 2000
    for camid in (0, 1, 2, None):
        some = [i for i in all_images if i["camid"] == camid]
        for name in MAPS:
            maps = flat(some, name)
            measured = {k: v.astype(float) for k, v in measure_maps(maps).items()}
            for measure in set(measured) - {"min", "max"}:
                row = found[camid, name, measure]
                np.testing.assert_allclose(row["value"], np.nanmean(measured[measure]), rtol=1e-6, err_msg=measure)
                with_value = [i for i, v in zip(some, measured[measure], strict=True) if v == v]
                people = {i["pid"] for i in with_value} - {None, -1, 0}
                assert (row["n_images"], row["n_identities"]) == (len(with_value), len(people))
            assert found[camid, name, "zero_maps"]["value"] == (measured["mass"] == 0).sum()
    assert found[0, MAPS[1], "zero_maps"]["value"] > 5


def test_mean_and_deviation_maps(images: dict[str, list[dict[str, Any]]], by_camera: Path) -> None:
    with h5py.File(by_camera / "mean_maps.h5") as file:
        groups = [json.loads(text) for text in file["groups"].asstr()[:]]
        assert groups == [{"camid": 0}, {"camid": 1}, {"camid": 2}, {"camid": None}]
        for g, group in enumerate(groups):
            for name in MAPS:
                maps = flat([i for i in chosen(images) if i["camid"] == group["camid"]], name).astype(float)
                maps = maps[maps.sum(axis=(1, 2)) > 0]
                share = maps / maps.sum(axis=(1, 2), keepdims=True)
                np.testing.assert_allclose(file[f"{name}/mean"][g], share.mean(axis=0), rtol=1e-6)
                np.testing.assert_allclose(file[f"{name}/std"][g], share.std(axis=0), rtol=1e-5)


def test_intervals_are_those_of_a_slow_bootstrap(images: dict[str, list[dict[str, Any]]], by_camera: Path) -> None:
    all_images = chosen(images)
    junk = -1
    for i in all_images:
        i["person"] = i["pid"] if i["pid"] and i["pid"] > 0 else junk  # 0 is a distractor
    people = sorted({i["person"] for i in all_images})
    found, name = table(by_camera), MAPS[1]
    values = dict(zip((i["key"] for i in all_images), measure_maps(flat(all_images, name))["entropy"], strict=True))
    maps = flat(all_images, name)
    with np.errstate(invalid="ignore"):  # maps without mass, which are in no mean
        shares = dict(zip((i["key"] for i in all_images), maps / maps.sum(axis=(1, 2), keepdims=True), strict=True))
    of: dict[int, list[str]] = {p: [] for p in people}
    for i in all_images:
        if i["camid"] == 1 and not np.isnan(values[i["key"]]):
            of[i["person"]].append(i["key"])
    generator, means, mean_maps = np.random.default_rng(5), [], []
    for _ in range(60):
        drawn = generator.integers(len(people), size=len(people))
        keys = [key for index in drawn for key in of[people[index]]]
        means.append(np.mean([values[key] for key in keys], dtype=float))
        mean_maps.append(np.mean([shares[key] for key in keys], axis=0, dtype=float))
    row = found[1, name, "entropy"]
    np.testing.assert_allclose((row["low"], row["high"]), np.percentile(means, [2.5, 97.5]), rtol=1e-6)
    assert row["low"] < row["value"] < row["high"]
    with h5py.File(by_camera / "mean_maps.h5") as file:
        np.testing.assert_allclose(file[f"{name}/mean_low"][1], np.percentile(mean_maps, 2.5, axis=0), rtol=1e-5)
        np.testing.assert_allclose(file[f"{name}/mean_high"][1], np.percentile(mean_maps, 97.5, axis=0), rtol=1e-5)


def test_expressions_conditions_and_one_map(images: dict[str, list[dict[str, Any]]], run: Path, tmp_path: Path) -> None:
    where = "pid IN (SELECT pid FROM run WHERE split = 'query')"
    words = ("--by", "split", "--by", "pid // 30 AS third", "--where", where, "--map", MAPS[1])
    run_command(run, *words, "--output", tmp_path, "--resamples", 10, "--outliers", 0)
    found = table(tmp_path)
    people = {i["pid"] for i in chosen(images) if i["split"] == "query"}
    for split in ("train", "query"):
        for third in range(3):
            some = [i for i in chosen(images) if i["split"] == split and i["pid"] in people]
            some = [i for i in some if i["pid"] is not None and int(i["pid"] / 30) == third]
            assert found[split, third, MAPS[1], "images"]["value"] == len(some) > 0
            area = np.nanmean(measure_maps(flat(some, MAPS[1]))["area50"].astype(float))
            np.testing.assert_allclose(found[split, third, MAPS[1], "area50"]["value"], area, rtol=1e-6)
    assert {key[2] for key in found} == {MAPS[1]} and (tmp_path / "outliers.txt").read_text() == ""


def test_blocks_merge_to_the_same_numbers(
    run: Path, by_camera: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in range(4):  # the first block has no shard
        run_command(run, "--by", "camid", "--output", tmp_path, "--seed", 5, "--block", f"{block}/4")
    parts = sorted((tmp_path / "parts").glob("*.npz"))
    assert len(parts) == 4
    held = []  # for the outliers, the images of a few shards at a time
    monkeypatch.setattr("jobs.statistics.chosen._SHARDS_AT_A_TIME", 2)
    monkeypatch.setattr(
        "jobs.statistics.chosen.choose_images", lambda *words: held.append(len(words[2])) or choose_images(*words)
    )
    run_command(run, "--merge", *reversed(parts), "--output", tmp_path, "--resamples", 60)
    assert held == [2, 1]
    one, other = table(by_camera), table(tmp_path)
    assert one.keys() == other.keys()
    for key, row in one.items():
        numbers = [[r[k] if r[k] is not None else np.nan for k in ("value", "low", "high")] for r in (row, other[key])]
        np.testing.assert_allclose(*numbers, rtol=1e-6, err_msg=str(key))
    for name in ("agreement.csv", "consistency.json", "outliers.txt"):
        assert (by_camera / name).read_bytes() == (tmp_path / name).read_bytes()
    with h5py.File(by_camera / "mean_maps.h5") as a, h5py.File(tmp_path / "mean_maps.h5") as b:
        for kind in ("mean", "std", "mean_low", "mean_high"):
            np.testing.assert_allclose(a[f"{MAPS[0]}/{kind}"][:], b[f"{MAPS[0]}/{kind}"][:], rtol=1e-6)
    with pytest.raises(UserError, match=r"1 shard is in no part, such as train-000001"):
        run_command(run, "--merge", *parts[:3], "--output", tmp_path)
    with pytest.raises(UserError, match="in two parts"):
        run_command(run, "--merge", parts[1], parts[1], "--output", tmp_path)
    run_command(run, "--by", "split", "--output", tmp_path / "x", "--seed", 5, "--block", "1/4")
    with pytest.raises(UserError, match="different questions"):
        run_command(run, "--merge", parts[1], *(tmp_path / "x" / "parts").glob("*"), "--output", tmp_path)


def as_earlier_part(path: Path, copy: Path) -> Path:
    """A part as versions before identities wrote it: with the pids of persons, and -1 for all else."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    facts = json.loads(arrays["facts"].tobytes())
    pids = np.array([*map(int, facts.pop("identities")), -1])
    for prefix in ("", "sample."):
        arrays[f"{prefix}pid"] = pids[arrays.pop(f"{prefix}identity")]
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(copy, **arrays)
    return copy


def test_parts_of_earlier_versions_merge_with_ours(run: Path, by_camera: Path, tmp_path: Path) -> None:
    """The runs of those versions have no column of identities."""
    old = as_first_version(run, tmp_path / "OLD")
    parts = []
    for block in range(3):
        run_command(old, "--by", "camid", "--output", tmp_path, "--seed", 5, "--block", f"{block}/3")
        parts.append(tmp_path / "parts" / f"part-{block:05d}-of-00003.npz")
    earlier = [as_earlier_part(part, tmp_path / f"{n}.npz") for n, part in enumerate(parts)]
    run_command(old, "--merge", earlier[0], parts[1], earlier[2], "--output", tmp_path, "--resamples", 60)
    for name in ("agreement.csv", "consistency.json", "outliers.txt"):
        assert (by_camera / name).read_bytes() == (tmp_path / name).read_bytes()
    one, other = table(by_camera), table(tmp_path)
    assert one.keys() == other.keys()
    for key, row in one.items():
        numbers = [[r[k] if r[k] is not None else np.nan for k in list(r)[-5:]] for r in (row, other[key])]
        np.testing.assert_allclose(*numbers, rtol=1e-6, err_msg=str(key))


def test_a_part_of_another_run_or_size_is_refused(run: Path, tmp_path: Path) -> None:
    image = {"key": "a", "pid": 1, "camid": 0, **{m: np.ones((12, 5)) for m in MAPS}}
    other = build_run(tmp_path / "OTHER", {"train-000000": [image], "train-000001": [image]})
    part = stats(StatsConfig(run=other, output=tmp_path, block=ShardBlock(0, 1))).part
    assert part is not None
    with pytest.raises(UserError, match=r"part-00000-of-00001\.npz is not a part of the run"):
        run_command(run, "--merge", part)


def mixed(number: int) -> int:
    """SplitMix64 (Steele et al. 2014) in Python's integers."""
    number = (number + 0x9E3779B97F4A7C15) % 2**64
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) % 2**64
    return number ^ (number >> 31)


def test_the_sample_is_drawn_by_a_hash_of_each_identity(run: Path) -> None:
    opened = open_run(run)
    images = choose_images(opened, make_question(opened, seed=3, sample=500), sorted(SHARDS))
    sampled = sampled_images(images)
    who = images.identity[images.cluster]
    for code, name in enumerate(images.identities.to_pylist()):
        drawn = mixed((int(name) + mixed(3)) % 2**64) < images.question.fraction * 2**64
        assert set(sampled[who == code].tolist()) == {drawn}
    nobody = sampled[who < 0]
    assert nobody.any() and not nobody.all()
    assert 0.15 < sampled.mean() < 0.35


def test_identities_that_are_texts_are_drawn_as_a_whole(run: Path) -> None:
    opened = open_run(run)
    images = choose_images(opened, make_question(opened, sample=500), sorted(SHARDS))
    names = pa.array([f"train/{name}" for name in images.identities.to_pylist()])
    sampled = sampled_images(replace(images, identities=names))
    drawn = [set(sampled[images.identity[images.cluster] == code].tolist()) for code in range(len(names))]
    assert all(len(kinds) == 1 for kinds in drawn) and 5 < sum(kinds == {True} for kinds in drawn) < 45
    assert (sampled != sampled_images(images)).any()


def test_the_command_and_the_function_have_the_same_defaults(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = []

    def keep(config: StatsConfig, drawer: object) -> None:
        configs.append(config)
        raise UserError("enough")

    monkeypatch.setattr("jobs.statistics.stats.stats", keep)
    for words in ((), ("--block", "1/3"), ("--merge", "a.npz", "b.npz")):
        with pytest.raises(UserError, match="enough"):
            run_command(run, *words)
    merged = StatsConfig(run=run, parts=(Path("a.npz"), Path("b.npz")))
    assert configs == [StatsConfig(run=run), StatsConfig(run=run, block=ShardBlock(1, 3)), merged]
    assert parse_block("1/3") == ShardBlock(1, 3)


def test_the_result_holds_the_findings_and_their_files(run: Path, tmp_path: Path) -> None:
    config = StatsConfig(run=run, by=("camid",), maps=MAPS[:1], output=tmp_path, outliers=3, resamples=20)
    result = stats(config)
    found, rows = result.findings, table(tmp_path)
    assert found is not None and result.files is not None and result.part is None
    assert (result.images, result.shards) == (int(found.summary.images.sum()), 3)
    assert found.labels == ["camid=0", "camid=1", "camid=2", "camid=null"]
    assert found.summary.value[1, 0, 0] == rows[1, MAPS[0], "mass"]["value"]
    assert [o.key for o in found.outliers] == result.files.outliers.read_text().split()
    assert all(path.exists() for path in vars(result.files).values())
    facts = json.loads(result.files.consistency.read_text())["maps"][MAPS[0]]
    assert facts["auc"] == found.consistency[MAPS[0]].overall.auc
    assert facts["camera_pairs"]["0-1"]["auc"] == found.consistency[MAPS[0]].camera_pairs[0, 1].auc


def test_odd_groups_have_defined_results(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)

    def image(key: str, pid: int | None, camid: int | None, **maps: np.ndarray) -> dict[str, Any]:
        return {"key": key, "pid": pid, "camid": camid, **{m: maps.get(m, rng.random((12, 5))) for m in MAPS}}

    zero = {MAPS[1]: np.zeros((12, 5))}
    one = image("a", 1, 0)
    some = [one, image("b", 2, None, **zero), image("c", -1, None, **zero), image("d", None, 2), image("e", 3, 2)]
    root = build_run(tmp_path / "RUN", {"train-000000": some})
    run_command(root, "--by", "camid", "--resamples", 20)
    found = table(root / "stats")
    row = found[0, MAPS[0], "entropy"]  # one image: its own number, and no interval
    np.testing.assert_allclose(row["value"], measure_maps(flat([one], MAPS[0]))["entropy"][0], rtol=1e-6)
    assert (row["low"], row["high"], row["n_images"], row["n_identities"]) == (None, None, 1, 1)
    row = found[None, MAPS[1], "area90"]  # nothing but all-zero maps
    assert (row["value"], row["low"], row["n_images"]) == (None, None, 0)
    assert found[None, MAPS[1], "zero_maps"]["value"] == 2 and found[None, MAPS[1], "mass"]["value"] == 0
    assert found[2, MAPS[0], "images"]["n_identities"] == 1  # the unknown person is not an identity
    assert found[2, MAPS[0], "entropy"]["low"] is not None  # but a cluster of its own in the resamples
    outliers = (root / "stats" / "outliers.txt").read_text().split()
    assert sorted(outliers) == ["a", "b", "e"]
    assert "camid=null" in (root / "stats" / "report.html").read_text()


def test_maps_that_are_not_finite_are_counted_and_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    some = [{"key": f"k{i}", "pid": i % 3, "camid": 0, **{m: rng.random((12, 5)) for m in MAPS}} for i in range(9)]
    root = build_run(tmp_path / "RUN", {"train-000000": some})
    with h5py.File(root / "maps" / "train-000000.h5", "r+") as file:  # the writer would have refused it
        file[f"maps/{MAPS[0]}"][4, 3, 2] = np.nan
    run_command(root, "--resamples", 10)
    found = table(root / "stats")
    assert found["all", MAPS[0], "not_finite_maps"]["value"] == 1 and found["all", MAPS[0], "stripe_0"]["n_images"] == 8
    share = [i[MAPS[0]] / i[MAPS[0]].sum() for n, i in enumerate(some) if n != 4]
    with h5py.File(root / "stats" / "mean_maps.h5") as file:
        np.testing.assert_allclose(file[f"{MAPS[0]}/mean"][0], np.mean(share, axis=0), rtol=1e-6)


def test_a_run_of_the_first_version_goes_on_and_is_read(
    images: dict[str, list[dict[str, Any]]], run: Path, by_camera: Path, tmp_path: Path
) -> None:
    old = as_first_version(run, tmp_path / "OLD")
    name = "query-000000"
    for path in (old / "maps" / f"{name}.h5", old / "metadata" / f"{name}.parquet"):
        path.unlink()
    layout = RunLayout(old)
    write_shard(layout, read_manifest(layout), name, images[name])
    assert not [n for n in pq.read_schema(old / "metadata" / f"{name}.parquet").names if n.endswith("area90")]
    assert verify(old).problems == [] and finalize(old).rows == sum(SHARDS.values())
    folder = of_run(old, "--by", "camid", "--seed", 5, output=tmp_path / "out")
    found, new = table(folder), table(by_camera)
    assert found.keys() == new.keys()
    for key, row in new.items():
        value = np.nan if row["value"] is None else row["value"]
        np.testing.assert_allclose(np.array(found[key]["value"], float), value, rtol=1e-6, err_msg=str(key))


def test_only_area90_may_be_missing_from_a_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_run(run)
    schema = pa.schema([field for field in opened.schema if not field.name.endswith(("_area90", "_com_x"))])
    monkeypatch.setattr(type(opened), "schema", schema)
    measures = [column.removeprefix(MAPS[0]) for column in stored_columns(opened, MAPS[:1])]
    assert measures == ["_mass", "_entropy", "_com_x", "_com_y", "_area50"]  # com_x is requested, and will be an error


def test_an_area_is_that_of_a_map_with_a_shape(tmp_path: Path) -> None:
    shapes = [np.ones((2, 2)), np.zeros((2, 2)), np.array([[9.0, 0.5], [0.25, 0.25]]), np.ones((2, 2)), np.ones((2, 2))]
    some = [{"key": f"k{i}", "pid": 1, "camid": 0, **dict.fromkeys(MAPS, map_)} for i, map_ in enumerate(shapes)]
    root = build_run(tmp_path / "RUN", {"train-000000": some})
    with h5py.File(root / "maps" / "train-000000.h5", "r+") as file:
        file[f"maps/{MAPS[0]}"][3, 1, 1] = np.nan
        file[f"maps/{MAPS[0]}"][4, 0, 1] = np.inf
    opened = open_run(root)
    chosen_ = choose_images(opened, make_question(opened, maps=MAPS[:1]), ["train-000000"])
    np.testing.assert_array_equal(areas_of(chosen_, MAPS[0]), np.array([1, np.nan, 0.25, np.nan, np.nan], np.float32))


@pytest.mark.parametrize("by", [("split", "camid"), ("camid", "pid"), ("shard", "h5_row"), ("mim_attention_entropy",)])
def test_the_choice_is_the_same_by_columns_and_by_sql(run: Path, by: tuple[str, ...]) -> None:
    opened = open_run(run)
    shards = sorted(opened.layout.done())
    plain, by_sql = (
        choose_images(opened, make_question(opened, by=by, where=where, maps=MAPS[:1], sample=500), shards)
        for where in ("", "true")
    )
    assert plain.groups.equals(by_sql.groups.cast(plain.groups.schema))
    assert plain.identities.equals(by_sql.identities) and len(plain.identities) == 89
    for name in ("shard_of", "rows", "cluster", "camid", "group", "identity", "images"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(by_sql, name), err_msg=name)
    np.testing.assert_array_equal(sampled_images(plain), sampled_images(by_sql))


def test_an_open_run_sees_a_shard_that_was_written_anew(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "RUN"
    shutil.copytree(run, root)
    opened, name = open_run(root), "train-000000"
    path = root / "metadata" / f"{name}.parquet"
    before, table_ = count_images(opened, ""), pq.read_table(path)
    assert before == opened.metadata().count_rows(filter=pc.field("h5_row").is_valid())
    pq.write_table(table_.slice(0, 10), path, write_statistics=False)  # and says nothing of its NULLs
    after = opened.metadata().to_table(columns=["h5_row"])
    assert count_images(opened, "") == len(after) - after["h5_row"].null_count < before - 600
    assert opened.metadata([name]).count_rows() == 10


def test_nearly_uniform_maps_keep_their_deviation(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    some = [{"key": f"k{i}", "pid": 1 + i % 3, "camid": 0, **{m: 1 + 1e-4 * rng.random((12, 5)) for m in MAPS}}
            for i in range(300)]  # fmt: skip
    out = of_run(build_run(tmp_path / "R", {"train-0": some}), "--map", MAPS[0])
    share = flat(some, MAPS[0]).astype(np.float32).astype(float)
    share /= share.sum(axis=(1, 2), keepdims=True)
    with h5py.File(out / "mean_maps.h5") as file:
        np.testing.assert_allclose(file[f"{MAPS[0]}/std"][0], share.std(axis=0), rtol=1e-2)


def test_the_size_of_a_read_changes_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--map", MAPS[0], "--by", "camid", "--where", "h5_row % 7 > 2 AND (h5_row < 100 OR h5_row > 400)")
    whole = of_run(run, *words, output=tmp_path / "whole")
    monkeypatch.setattr("jobs.statistics.map_slices._READ", 1)  # a chunk at a time
    parts = of_run(run, *words, output=tmp_path / "parts")
    assert (whole / "outliers.txt").read_text() == (parts / "outliers.txt").read_text()
    for one, other in zip(table(whole).values(), table(parts).values(), strict=True):
        assert one["n_images"] == other["n_images"]
        np.testing.assert_allclose(np.array(one["value"], float), np.array(other["value"], float), rtol=1e-6)


def test_maps_that_end_before_their_metadata_are_named(tmp_path: Path) -> None:
    some = [{"key": f"k{i}", "pid": 1, "camid": 0, **{m: np.ones((12, 5)) for m in MAPS}} for i in range(9)]
    run = build_run(tmp_path / "R", {"train-0": some})
    with h5py.File(next((run / "maps").glob("*.h5")), "a") as file:
        dataset = file[f"maps/{MAPS[0]}"]
        kept = dataset[:5]
        del file[f"maps/{MAPS[0]}"]
        file.create_dataset(f"maps/{MAPS[0]}", data=kept, chunks=(5, 12, 5))
    rewrite(run, "train-0")  # or its size would tell
    with pytest.raises(UserError, match=f"{MAPS[0]} has 5 rows, but the metadata name row 8"):
        run_command(run, "--map", MAPS[0])


@pytest.mark.parametrize(
    ("key", "people"),
    [("{:04d}_c1s1_{:06d}_01", 4), ("{:04d}_c1_f{:07d}", 4), ("{:04d}_{:03d}_01_0303morning_0015_0", 5)],
    ids=["market1501", "dukemtmc", "msmt17"],
)
def test_distractors_are_nobody_and_person_0_is_a_person(tmp_path: Path, key: str, people: int) -> None:
    rng = np.random.default_rng(3)
    some = [
        {"key": key.format(i % 5, i), "pid": i % 5, "camid": 0, **{m: rng.random((12, 5)) for m in MAPS}}
        for i in range(100)
    ]
    out = of_run(build_run(tmp_path / "R", {"gallery-0": some}), "--map", MAPS[0], "--outliers", 100)
    assert {row["n_identities"] for row in table(out).values() if row["n_images"]} == {people}
    outliers = (out / "outliers.txt").read_text().split()
    assert sorted(outliers) == sorted(i["key"] for i in some if people == 5 or i["pid"])


def test_pids_that_start_again_are_other_people(tmp_path: Path) -> None:
    """Each person's map is one patch of its own: pairs of one person correlate with 1, others with less than 0."""
    some = []
    for kind in ("train", "test"):
        for pid in range(3):
            own = np.full((12, 5), 1e-6)
            own[pid + 3 * (kind == "test")] = 1
            for camid in (0, 1):
                image = {"key": f"{kind}{pid}{camid}", "pid": pid, "camid": camid, "identity": f"{kind}/{pid}"}
                some.append({**image, **dict.fromkeys(MAPS, own)})
    out = of_run(build_run(tmp_path / "R", {"all-0": some}), "--outliers", 100, "--resamples", 10)
    assert {row["n_identities"] for row in table(out).values()} == {6}
    found = json.loads((out / "consistency.json").read_text())["maps"][MAPS[0]]
    assert found["same_identity"] == pytest.approx(1) and found["different_identity"] < 0
    assert (found["same_pairs"], found["different_pairs"], found["auc"]) == (6, 6, 1)


def test_what_cannot_be_answered_is_said(run: Path) -> None:
    with pytest.raises(UserError, match="--by: there is no column 'camd'; did you mean camid"):
        run_command(run, "--by", "camd")
    with pytest.raises(UserError, match="--where: there is no column 'pidd'; did you mean pid"):
        run_command(run, "--where", "pidd > 3")
    with pytest.raises(UserError, match=r"no image of .* is selected by --where 'pid > 1000'"):
        run_command(run, "--where", "pid > 1000")
    with pytest.raises(UserError, match="did you mean gradcam\\+\\+/mim"):
        run_command(run, "--map", "gradcam++/mm")
    with pytest.raises(UserError, match=r"--where: .*syntax error"):
        run_command(run, "--where", "pid >")
    with pytest.raises(UserError, match=r"--by: .*window functions"):
        run_command(run, "--by", "ntile(4) OVER (ORDER BY pid)")
    with pytest.raises(UserError, match=r"--by: .*aggregates"):
        run_command(run, "--by", "max(pid)")
    with pytest.raises(UserError, match="--by: the column 'map' is taken"):
        run_command(run, "--by", "camid AS map")
    with pytest.raises(UserError, match="give i/n with i from 0 to n - 1"):
        run_command(run, "--block", "4/4")
    with pytest.raises(UserError, match=r"cannot read .*run\.json as a part"):
        run_command(run, "--merge", run / "run.json")
    with pytest.raises(UserError, match="--merge needs the files that --block wrote"):
        run_command(run, "--merge")
    with pytest.raises(UserError, match="leave out --by, --where, --map and --block"):
        run_command(run, "--merge", run / "part.npz", "--by", "camid")
    with pytest.raises(UserError, match=r"run\.json is one argument too many"):
        run_command(run, run / "run.json")


def test_a_comment_in_a_condition_ends_with_it(images: dict[str, list[dict[str, Any]]], run: Path) -> None:
    with_pid = sum(i["pid"] is not None and i["pid"] > 0 for i in chosen(images))
    opened = open_run(run)
    question = make_question(opened, where="pid > 0 -- ) AND (", by=["camid -- ) AND ("])
    assert count_images(opened, question.where) == with_pid
    assert len(choose_images(opened, question, sorted(SHARDS)).rows) == with_pid


@pytest.mark.parametrize("text", ["true) OR (true", "true; DROP VIEW run"])
def test_a_condition_is_one_expression(run: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="--where: "):
        run_command(run, "--where", text, "--output", tmp_path)
    with pytest.raises(UserError, match="--by: "):
        run_command(run, "--by", f"{text} AS x", "--output", tmp_path)


@pytest.mark.parametrize("option", ["--where", "--by"])
def test_expressions_see_no_files(run: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for text in (f"(SELECT count(*) FROM '{tmp_path}/secret.csv') > 0", f"(SELECT read_text('{tmp_path}/secret.csv'))"):
        with pytest.raises(UserError, match=f"{option}: "):
            run_command(run, option, text, "--output", tmp_path)


def test_the_report_needs_nothing_else(by_camera: Path) -> None:
    text = (by_camera / "report.html").read_text()
    assert not re.search(r"(src|href)=(?!\"data:)|url\(|https?://|<script", text)
    assert text.count("data:image/png;base64,") == 3 * len(MAPS) == len(list((by_camera / "figures").iterdir()))
    assert not list(by_camera.rglob("*.tmp")) and (by_camera / "stats.csv").read_text().count("\n") == 4 * 2 * 15 + 1
