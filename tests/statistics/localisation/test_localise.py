"""`promptsg localise` against numpy and scikit-learn: every image, means of groups, parts, intervals, the command."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from cam.placement import GridPlacement
from jobs.commands.localise import command
from jobs.pedestrians.dataset import write_pedestrian_shards
from jobs.shards.samples import NO_LABEL, Sample, read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard
from jobs.statistics.localisation.findings import Localisation, LocaliseFindings
from jobs.statistics.localisation.localise import LocaliseConfig, localise
from jobs.statistics.localisation.mask_image import read_labels
from jobs.statistics.localisation.mask_scores import covered_share
from tests.statistics.localisation.made_masks import (
    GRID,
    MAPS,
    MEASURES,
    Made,
    a_mask,
    expected,
    key_of,
    make,
    png,
    queries_of,
    shares,
    write_masks,
)
from tests.support.made_runs import made_manifest, made_shard


def values(findings: LocaliseFindings, name: str, group: int = 0) -> list[float | None]:
    one = next(each for each in findings.of_group(group) if each.name == name)
    return [getattr(one, measure).value for measure in MEASURES]


def test_each_image_has_the_numbers_of_numpy_and_scikit_learn(made: Made, findings: LocaliseFindings) -> None:
    rows = made.rows()
    assert len(rows) == 40
    assert {key: row["mask"] for key, row in rows.items() if row["mask"] != "ok"} == {
        key_of(5): "missing",
        key_of(9): "empty",
        key_of(13): "unreadable",
    }
    for key, mask in made.masks.items():
        share, row = shares(mask > 0), rows[key]
        assert row["person_area"] == pytest.approx(share.mean(), rel=1e-6)
        for name, column in zip(MAPS, ("mim_attention", "gradcampp_mim"), strict=True):
            one = made.maps[key][name]
            found = [row[f"{column}_{measure}"] for measure in MEASURES]
            assert found == pytest.approx(expected(one, share), rel=1e-5)
            for label in (1, 2, 3):
                part = shares(mask == label)
                assert row[f"{column}_on_label_{label}"] == pytest.approx((one * part).sum() / one.sum(), rel=1e-5)
                assert row[f"area_label_{label}"] == pytest.approx(part.mean(), rel=1e-5)
    nothing = {name: value for name, value in rows[key_of(9)].items() if name not in ("shard", "key", "mask")}
    assert set(nothing.values()) == {None}


def test_means_by_group_of_maps_the_prior_and_averages(made: Made, findings: LocaliseFindings) -> None:
    share = {key: shares(mask > 0) for key, mask in made.masks.items()}
    fixed = {"fixed prior": np.mean(list(share.values()), axis=0).round(6)}  # equal patches are ties
    for name in MAPS:
        fixed[f"average of {name}"] = np.mean([made.maps[key][name] for key in share], axis=0)
    assert findings.images == 37 and findings.labels == ["camid=0", "camid=1", "camid=2"]
    for camid in range(3):
        keys = [sample.key for sample in made.samples if sample.camid == camid and sample.key in share]
        for name in MAPS:
            mean = np.mean([expected(made.maps[key][name], share[key]) for key in keys], axis=0)
            assert values(findings, name, camid) == pytest.approx(mean.tolist(), rel=1e-6)
        for name, one in fixed.items():
            mean = np.mean([expected(one, share[key]) for key in keys], axis=0)
            assert values(findings, name, camid) == pytest.approx(mean.tolist(), rel=1e-6)
        assert findings.area[camid].value == pytest.approx(np.mean([share[key].mean() for key in keys]))
        assert {one.images for one in findings.of_group(camid)} == {len(keys)}
        persons = {sample.pid for sample in made.samples if sample.key in keys}
        assert {one.identities for one in findings.of_group(camid)} == {len(persons)}
    np.testing.assert_allclose(findings.means[0].prior, np.mean(list(share.values()), axis=0), rtol=1e-6)


def test_intervals_are_of_identities_drawn_again(made: Made) -> None:
    one = next(each for each in made.find(seed=4, resamples=200).scores if each.name == MAPS[0])
    keys = [sample.key for sample in made.samples if sample.key in made.masks]
    scores = np.array([expected(made.maps[key][MAPS[0]], shares(made.masks[key] > 0)) for key in keys])
    person = np.array([int(key[:4]) for key in keys]) - 1
    rng, drawn = np.random.default_rng(4), []
    for _ in range(200):
        weights = np.bincount(rng.integers(10, size=10), minlength=10)[person]
        drawn.append(np.average(scores, axis=0, weights=weights))
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    for v, name in enumerate(MEASURES):
        found = getattr(one, name)
        assert (found.low, found.high) == pytest.approx((low[v], high[v]), rel=1e-6)


def test_parts_are_over_the_images_that_show_them(made: Made, tmp_path: Path) -> None:
    names = tmp_path / "names.csv"
    names.write_text("label,name\n0,Background\n1,Upper-clothes\n2,Pants\n")
    findings = made.find(labels=names)
    parts = {(one.map, one.part): one for one in findings.parts}
    assert {part for _, part in parts} == {"upper_clothes", "pants", "label_3"}
    assert findings.counts.unnamed == {3: sum((mask == 3).any() for mask in made.masks.values())}
    showing = {key: shares(mask == 3) for key, mask in made.masks.items() if (mask == 3).any()}
    on = [(made.maps[key][MAPS[1]] * share).sum() / made.maps[key][MAPS[1]].sum() for key, share in showing.items()]
    area = [share.mean() for share in showing.values()]
    found = parts[MAPS[1], "label_3"]
    assert found.images == len(showing) < 37
    assert found.on.value == pytest.approx(np.mean(on))
    assert found.area.value == pytest.approx(np.mean(area))
    assert found.ratio.value == pytest.approx(np.mean(on) / np.mean(area))
    assert found.ratio.low is not None and found.ratio.low < found.ratio.value


def test_overlapping_patches_lie_where_the_model_has_them(tmp_path: Path) -> None:
    """Patches of 8 pixels every 4 of 32x16: 7 rows and 3 columns; one in the middle counts pixels that others count."""
    keys = [key_of(n) for n in range(6)]
    masks = {key: a_mask(np.random.default_rng(n), (32, 16)) for n, key in enumerate(keys)}
    model = {"image_size": [32, 16], "patch_size": 8, "stride": 4}
    made = make(tmp_path, {key: png(mask) for key, mask in masks.items()}, grid=(7, 3), model=model)
    made.find()
    for key, mask in masks.items():
        windows = np.lib.stride_tricks.sliding_window_view(mask > 0, (8, 8))[::4, ::4]
        row = made.rows()[key]
        found = [row[f"mim_attention_{measure}"] for measure in MEASURES]
        assert found == pytest.approx(expected(made.maps[key][MAPS[0]], windows.mean(axis=(2, 3))), rel=1e-5)


def test_maps_without_a_shape_are_counted(tmp_path: Path) -> None:
    keys = [key_of(n) for n in range(8)]
    manifest = made_manifest(tmp_path / "RUN", ["a"], ["gradcam/mim"])
    maps = np.random.default_rng(0).random((8, *GRID)).astype(np.float32)
    maps[0], maps[1] = 0, np.nan
    samples = [Sample(key=key, tar_index=n, pid=n, camid=0, width=64, height=128) for n, key in enumerate(keys)]
    samples[1].fail(NO_LABEL, "the target has no class")
    made_shard(tmp_path / "RUN", manifest, "a", samples, **{"gradcam/mim": maps})
    masks = write_masks(tmp_path / "masks", {key: a_mask(np.random.default_rng(1), (32, 16)) for key in keys})
    result = localise(LocaliseConfig(run=tmp_path / "RUN", masks=(masks,), resamples=20))
    one = result.findings.scores[0]
    assert (one.zero, one.not_finite, one.images) == (1, 1, 6)
    rows = pq.read_table(result.files.rows).to_pylist()
    assert [row["gradcam_mim_auc"] is None for row in rows] == [True, True] + [False] * 6
    assert rows[0]["person_area"] == rows[2]["person_area"] > 0
    average = next(each for each in result.findings.scores if each.kind == "average")
    assert average.images == 8  # it stands for the map in every image


def run_command(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False, standalone_mode=False)


def test_the_command_prints_a_table_or_json(small: Made, tmp_path: Path) -> None:
    words = (small.root, "--shards-root", small.tars, "--output", tmp_path, "--map", MAPS[0], "--resamples", 20)
    queries = queries_of(small.samples, np.linspace(0, 1, 4), np.arange(4) > 1)
    pq.write_table(queries, tmp_path / "queries.parquet")
    said = run_command(*words, "--queries", tmp_path / "queries.parquet").output
    assert "of the mass is on the person where the first match is wrong (2 queries)" in said
    assert (tmp_path / "figures" / "queries.png").exists()
    (tmp_path / "queries.parquet").unlink()
    assert "fixed prior" in said and "average of mim_attention" in said and "mass / area" in said
    content = json.loads(run_command(*words, "--json", "--where", "camid < 2", "--by", "camid % 2 AS odd").output)
    assert content["maps"] == [MAPS[0]] and content["images"] == 6
    assert [one["group"] for one in content["person_area"]] == [{"odd": 0}, {"odd": 1}]
    kinds = {(one["kind"], one["name"]) for one in content["scores"]}
    assert kinds == {("map", MAPS[0]), ("prior", "fixed prior"), ("average", "average of mim_attention")}
    assert np.array(content["fixed_maps"][0]["prior"]).shape == GRID
    files = {path.name for path in tmp_path.iterdir()} - {"RUN", "tars"}
    assert files == {"figures", "localise.json", "localise.parquet", "report.html"}


def test_localisation_of_a_run_by_hand(tmp_path: Path) -> None:
    """Maps that are the masks themselves score the most that can be had; their average is the prior."""
    (tmp_path / "s").mkdir()
    tars = write_pedestrian_shards(tmp_path / "s", train=0, test=4, cameras=2, distractors=4, junk=2)
    masks, samples, arrays = {}, {}, {}
    for path in tars:
        with tarfile.open(path) as tar:
            for one in tar:
                if one.name.endswith(".mask.png"):
                    data = tar.extractfile(one).read()  # type: ignore[union-attr]
                    masks[one.name.removesuffix(".mask.png")] = read_labels(data) > 0
        with TarReader(Shard(name=path.stem, url=str(path), size=None)) as reader:
            samples[path.stem] = [sample for sample, _ in read_samples(reader, path.stem)]
    manifest = made_manifest(tmp_path / "RUN", sorted(samples), ["mim_attention"])
    for name, some in samples.items():
        arrays[name] = np.stack([covered_share(masks[one.key], GridPlacement.even(GRID)) for one in some])
        made_shard(tmp_path / "RUN", manifest, name, some, mim_attention=arrays[name].astype(np.float32))
    result = localise(LocaliseConfig(run=tmp_path / "RUN", shards_root=tmp_path / "s", where="pid > 0"))
    found: dict[str, Localisation] = {entry.name: entry for entry in result.findings.scores}
    people = [share for name, some in samples.items() for share, one in zip(arrays[name], some, strict=True)
              if (one.pid or 0) > 0]  # fmt: skip
    own = found["mim_attention"]
    assert own.images == len(people)
    assert own.auc.value is not None and own.pointing.value is not None and own.ratio.value is not None
    assert own.auc.value > 0.95 and own.pointing.value > 0.95
    exact = np.mean([(share**2).sum() / share.sum() / share.mean() for share in people])
    assert own.ratio.value == pytest.approx(exact, rel=1e-5)
    assert found["average of mim_attention"].ratio.value == pytest.approx(found["fixed prior"].ratio.value, rel=1e-5)
    assert own.ratio.low is not None and own.ratio.high is not None
    assert own.ratio.low < own.ratio.value < own.ratio.high
