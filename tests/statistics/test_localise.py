"""`promptsg localise` against numpy, scipy and scikit-learn: masks in shards and folders, parts, groups, odd masks."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from scipy import stats as scipy_stats

from cam.placement import GridPlacement
from jobs.commands.localise import command
from jobs.errors import UserError
from jobs.leftovers import scratch_folder
from jobs.pedestrians.dataset import write_pedestrian_shards
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import create_manifest
from jobs.runs.request import RecordedShard, RequestedSettings, ResolvedSettings, RunRequest
from jobs.shards.samples import NO_LABEL, Sample, read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard
from jobs.statistics.localisation.findings import Localisation, LocaliseFindings
from jobs.statistics.localisation.labels import read_label_names
from jobs.statistics.localisation.localise import LocaliseConfig, localise, measure
from jobs.statistics.localisation.mask_image import MaskError, read_labels
from jobs.statistics.localisation.mask_scores import covered_share
from tests.support.made_runs import as_first_version, made_manifest, made_shard
from tests.support.shard_files import Member, market_key, sample_members, textured_image, write_tar

metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")

MAPS = ("mim_attention", "gradcam++/mim")
MEASURES = ("on_person", "ratio", "pointing", "auc")
GRID = (16, 8)


def png(pixels: np.ndarray, mode: str | None = None, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels, mode).save(out, form)
    return out.getvalue()


def palette_png(labels: np.ndarray) -> bytes:
    """As human parsing tools write masks: indices, with colours for people."""
    image = Image.fromarray(labels, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def raw_png(labels: np.ndarray, depth: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits, by hand: Pillow writes none (ISO/IEC 15948)."""
    height, width = labels.shape
    bits = ((labels[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(height, -1).astype(np.uint8)
    lines = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, 0, 0, 0, 0])
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def a_mask(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A block of labels 1 to 3 somewhere on background."""
    h, w = size
    labels = np.zeros(size, np.uint8)
    top, left = rng.integers(0, h // 3), rng.integers(0, w // 3)
    bottom, right = rng.integers(h // 2, h), rng.integers(w // 2, w) + 1
    labels[top:bottom, left:right] = 1 + (np.arange(top, bottom) * 3 // h)[:, None]
    return labels


def shares(mask: np.ndarray, grid: tuple[int, int] = GRID) -> np.ndarray:
    """The part of each patch that a mask covers, by making pixels so small that patches are whole numbers of them."""
    (h, w), (rows, columns) = mask.shape, grid
    fine = np.kron(mask, np.ones(grid))  # (h * rows, w * columns)
    return np.asarray(fine.reshape(rows, h, columns, w).mean(axis=(1, 3)))


def expected(one: np.ndarray, share: np.ndarray) -> list[float]:
    """on_person, ratio, pointing and auc of one map with one highest patch."""
    mass = (one * share).sum() / one.sum()
    on = share > 0.5
    return [mass, mass / share.mean(), float(on.ravel()[one.argmax()]), metrics.roc_auc_score(on.ravel(), one.ravel())]


@dataclass
class Made:
    """A run with its tars and, by key, masks as arrays and maps."""

    root: Path
    tars: Path
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    maps: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def config(self, **given: object) -> LocaliseConfig:
        values = {"run": self.root, "shards_root": self.tars, "resamples": 60, **given}
        return LocaliseConfig(**values)  # type: ignore[arg-type]

    def find(self, **given: object) -> LocaliseFindings:
        """Without a report: its figures take longer than all the rest."""
        config = self.config(**given)
        with scratch_folder() as scratch:
            measured = measure(config, scratch)
            config.folder.mkdir(exist_ok=True)
            measured.rows.publish(config.folder / "localise.parquet")
        return measured.findings

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in pq.read_table(self.root / "localise" / "localise.parquet").to_pylist()}


def make(
    folder: Path,
    masks: dict[str, bytes | None],
    *,
    names: tuple[str, ...] = ("query-000000", "gallery-000000"),
    grid: tuple[int, int] = GRID,
    model: dict[str, object] | None = None,
    seed: int = 0,
) -> Made:
    """A run of two shards with the samples of these keys; a mask of None is not written."""
    made, rng = Made(folder / "RUN", folder / "tars"), np.random.default_rng(seed)
    shards = [RecordedShard(name=name, url=f"/nowhere/{name}.tar", size=1) for name in names]
    request = RunRequest(asked=RequestedSettings(maps=MAPS), shards=tuple(shards))
    resolved = ResolvedSettings.model_validate({"precision": "fp32", "model": model or {}})
    manifest = create_manifest(RunLayout(made.root), request, resolved)
    for name, keys in zip(names, np.array_split(list(masks), len(names)), strict=True):
        members: list[Member] = []
        for n, key in enumerate(keys.tolist()):
            members += sample_members(key, textured_image(n))
            members += [(f"{key}.mask.png", data)] if (data := masks[key]) is not None else []
        path = write_tar(made.tars / f"{name}.tar", members)
        with TarReader(Shard(name=name, url=str(path), size=None)) as tar:
            samples = [sample for sample, _ in read_samples(tar, name)]
        for sample in samples:
            sample.height, sample.width = 32, 16
        arrays = {m: rng.gamma(0.5, 1, (len(samples), *grid)).astype(np.float32) for m in MAPS}
        made_shard(made.root, manifest, name, samples, **arrays)
        made.samples += samples
        for n, sample in enumerate(samples):
            made.maps[sample.key] = {m: arrays[m][n].astype(np.float64) for m in MAPS}
    return made


def key_of(number: int) -> str:
    return market_key(1 + number // 4, number % 3, number)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """40 images of 10 persons, with masks of several sizes and kinds; 3 of them have none that can be used."""
    rng = np.random.default_rng(3)
    sizes = [(32, 16), (48, 24), (20, 10), (128, 64), (7, 3)]
    arrays = {key_of(n): a_mask(rng, sizes[n % len(sizes)]) for n in range(40)}
    data: dict[str, bytes | None] = {
        key: (palette_png if n % 2 else png)(mask) for n, (key, mask) in enumerate(arrays.items())
    }
    data[key_of(5)], data[key_of(9)] = None, png(np.zeros((32, 16), np.uint8))
    data[key_of(13)] = png(np.zeros((32, 16, 3), np.uint8))
    made = make(tmp_path_factory.mktemp("localise"), data)
    made.masks = {key: mask for n, (key, mask) in enumerate(arrays.items()) if n not in (5, 9, 13)}
    return made


@pytest.fixture(scope="module")
def findings(made: Made) -> LocaliseFindings:
    return made.find(by=("camid",), seed=7)


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


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("n.txt", "background\nhead\nUpper clothes\nhead\n", "head upper_clothes head"),
        ("n.json", '["background", "background", "person", "shoes"]', "background person shoes"),
        ("n.json", '{"3": "feet", "0": "background"}', "label_1 label_2 feet"),
        ("n.csv", "label,name\n2,bag\n", "label_1 bag label_3"),
    ],
)
def test_names_of_labels(tmp_path: Path, name: str, text: str, part: str) -> None:
    (tmp_path / name).write_text(text)
    names = read_label_names(tmp_path / name)
    assert [names.part_of(label) for label in (1, 2, 3)] == part.split()
    assert names.part_of(0) == "background"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("n.txt", "head\nbody\n", "calls label 0 'head'"),
        ("n.json", "{", "cannot read"),
        ("n.json", '{"a": "head"}', "is not a label with a name"),
        ("n.json", "3", "names no part"),
        ("n.csv", "label,name\n300,head\n", "from 0 to 255"),
        ("n.csv", "number,name\n1,head\n", "is not a label with a name"),
        ("n.txt", "background\n", "names no part"),
    ],
)
def test_files_that_name_no_labels(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        read_label_names(tmp_path / name)


def test_background_and_person_among_the_names(made: Made, tmp_path: Path) -> None:
    """Label 1 is no part of the person then; label 2 is, and has no part of its own."""
    (tmp_path / "n.json").write_text('["background", "background", "person", "legs"]')
    findings = made.find(labels=tmp_path / "n.json", output=tmp_path / "out")
    rows = {row["key"]: row for row in pq.read_table(tmp_path / "out" / "localise.parquet").to_pylist()}
    assert {one.part for one in findings.parts} == {"legs"}
    for key, mask in made.masks.items():
        if (mask >= 2).any():
            assert rows[key]["person_area"] == pytest.approx(shares(mask >= 2).mean(), rel=1e-6)
        else:
            assert rows[key]["mask"] == "empty"


LABELS = np.array([[0, 1, 2], [3, 0, 1]], np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        png(LABELS),
        palette_png(LABELS),
        png(LABELS.astype(np.uint16)),
        raw_png(LABELS, 2),
        raw_png(LABELS, 4),
    ],
    ids=["grey", "palette", "16 bits", "2 bits", "4 bits"],
)
def test_labels_of_every_kind_of_png(data: bytes) -> None:
    np.testing.assert_array_equal(read_labels(data), LABELS)


def test_a_mask_of_one_bit() -> None:
    np.testing.assert_array_equal(read_labels(raw_png(LABELS.clip(0, 1), 1)), LABELS > 0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty file"),
        (b"label map", "not a PNG"),
        (png(LABELS, form="JPEG"), "not a PNG"),
        (png(np.zeros((4, 4, 3), np.uint8)), "colours, not labels"),
        (png(np.zeros((4, 4, 4), np.uint8)), "colours, not labels"),
        (png(np.full((4, 4), 256, np.uint16)), "16 bits with the label 256"),
        (png(np.arange(4096, dtype=np.uint8).reshape(64, 64))[:60], "."),
    ],
    ids=["empty", "text", "jpeg", "rgb", "rgba", "16 bits", "cut"],
)
def test_what_is_no_mask(data: bytes, said: str) -> None:
    with pytest.raises(MaskError, match=said):
        read_labels(data)


def test_odd_masks_are_counted_and_named(made: Made, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(made.root), "--shards-root", str(made.tars), "--resamples", "20",
                                          "--output", str(tmp_path)], catch_exceptions=False)  # fmt: skip
    assert f"1 images left out, mask missing: {key_of(5)}" in result.output
    assert f"1 images left out, mask empty: {key_of(9)}" in result.output
    assert "1 images left out, mask unreadable (colours, not labels: write grey values or the indices" in result.output
    stretched = [key for key, mask in made.masks.items() if mask.shape == (7, 3)]
    assert "masks have another ratio" not in result.output and stretched  # a pixel of rounding is none
    assert "37 images with a mask" in result.output and "promptsg evaluate" in result.output
    content = json.loads((tmp_path / "localise.json").read_text())
    assert content["masks"]["status"] == {"ok": 37, "missing": 1, "empty": 1, "unreadable": 1}
    page = (tmp_path / "report.html").read_text()
    assert key_of(9) in page and page.count("<img") == 3 and (tmp_path / "figures" / "scores.png").stat().st_size > 500


def write_masks(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    for key, mask in masks.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{key}.png").write_bytes(palette_png(mask))
    return folder


def test_masks_of_folders_are_the_same(made: Made, tmp_path: Path) -> None:
    """No shard is opened then: it is not where run.json has it."""
    keys = list(made.masks)
    first = write_masks(tmp_path / "a", {key: made.masks[key] for key in keys[:20]})
    second = write_masks(tmp_path / "b", {key: made.masks[key] if n >= 20 else np.zeros((4, 2), np.uint8)
                                          for n, key in enumerate(keys)})  # fmt: skip
    there = made.find(output=tmp_path / "1")
    found = made.find(masks=(first, second), shards_root=None, output=tmp_path / "2")
    assert found.scores == there.scores and found.parts == there.parts
    assert found.counts.status == {"ok": 37, "missing": 3}
    with pytest.raises(UserError, match="is not a folder"):
        made.find(masks=(tmp_path / "c",))


def test_a_key_does_not_lead_out_of_the_folder_of_masks(tmp_path: Path) -> None:
    from jobs.statistics.localisation.mask_files import FoundMask, MaskedImage, MaskFolders

    (tmp_path / "in").mkdir()
    for name in ("secret.png", "in/a.png"):
        (tmp_path / name).write_bytes(png(LABELS))
    keys = ["../secret", str(tmp_path / "secret"), "a", "x\0", "b/../../secret"]
    images = [MaskedImage(key=key, width=1, height=1, size=None, crc32=None) for key in keys]
    found = dict(zip(keys, MaskFolders((tmp_path / "in",)).read("s", images), strict=True))
    assert [key for key, (_, mask) in found.items() if mask != FoundMask()] == ["a"]


def test_a_mask_of_another_aspect_is_taken_and_named(tmp_path: Path) -> None:
    keys = [key_of(n) for n in range(8)]
    made = make(tmp_path, {key: png(a_mask(np.random.default_rng(n), (24, 24) if n < 2 else (64, 32)))
                           for n, key in enumerate(keys)})  # fmt: skip
    findings = made.find()
    assert findings.counts.other_aspect == 2 and findings.counts.examples["other aspect"] == keys[:2]
    assert findings.images == 8


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


def queries_of(samples: list[Sample], ap: np.ndarray, right: np.ndarray) -> pa.Table:
    """As `promptsg evaluate` writes it; the fourth query has no match."""
    rows = [sample for sample in samples if sample.split == "query"]
    return pa.table(
        {
            "shard": ["query-000000"] * len(rows),
            "key": [sample.key for sample in rows],
            "h5_row": pa.array(range(len(rows)), pa.int64()),
            "ap": pa.array(ap, mask=np.arange(len(rows)) == 3),
            "rank1_correct": right,
        }
    )


def test_failed_queries_against_scipy(made: Made, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ap, right = rng.random(20), rng.random(20) > 0.4
    pq.write_table(queries_of(made.samples, ap, right), tmp_path / "queries.parquet")
    findings = made.find(queries=tmp_path / "queries.parquet", output=tmp_path, seed=2, resamples=100)
    assert findings.queries is not None
    look = next(one for one in findings.queries if (one.map, one.measure) == (MAPS[1], "on_person"))
    keys = [sample.key for sample in made.samples if sample.split == "query"]
    used = [n for n, key in enumerate(keys) if key in made.masks and n != 3]
    on = np.array([expected(made.maps[keys[n]][MAPS[1]], shares(made.masks[keys[n]] > 0))[0] for n in used])
    ap, right, person = ap[used], right[used], np.array([int(keys[n][:4]) for n in used]) - 1
    assert (look.queries_right, look.queries_wrong, look.identities) == (right.sum(), (~right).sum(), 5)
    assert look.right.value == pytest.approx(on[right].mean()) and look.wrong.value == pytest.approx(on[~right].mean())
    assert look.difference.value == pytest.approx(on[~right].mean() - on[right].mean())
    assert look.pearson.value == pytest.approx(scipy_stats.pearsonr(ap, on)[0])
    assert look.spearman.value == pytest.approx(scipy_stats.spearmanr(ap, on)[0])
    draw, drawn = np.random.default_rng(2), []
    for _ in range(100):
        times = np.bincount(draw.integers(5, size=5), minlength=5)[person]
        again = np.repeat(np.arange(len(on)), times)
        x, y, r = ap[again], on[again], right[again]
        drawn.append([y[~r].mean() - y[r].mean(), scipy_stats.spearmanr(x, y)[0]])
    low, high = np.nanpercentile(drawn, (2.5, 97.5), axis=0)
    for v, found in enumerate((look.difference, look.spearman)):
        assert (found.low, found.high) == pytest.approx((low[v], high[v]), rel=1e-6)


def test_queries_are_those_of_the_run(made: Made, tmp_path: Path) -> None:
    table = queries_of(made.samples, np.ones(20), np.ones(20, bool))
    keys = table["key"].to_pylist()
    pq.write_table(table.set_column(1, "key", [keys[1:] + keys[:1]]), tmp_path / "queries.parquet")
    with pytest.raises(UserError, match="is of another run"):
        made.find(queries=tmp_path / "queries.parquet", output=tmp_path)
    (tmp_path / "queries.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="run `promptsg evaluate` again"):
        made.find(queries=tmp_path / "queries.parquet", output=tmp_path)


def test_the_queries_of_the_runs_own_evaluation_are_found(made: Made, tmp_path: Path) -> None:
    folder = made.root / "evaluation"
    folder.mkdir()
    pq.write_table(queries_of(made.samples, np.linspace(0, 1, 20), np.ones(20, bool)), folder / "queries.parquet")
    try:
        findings = made.find(output=tmp_path)
    finally:
        (folder / "queries.parquet").unlink()
        folder.rmdir()
    assert findings.queries is not None and findings.queries[0].wrong.value is None
    assert findings.queries[0].difference.value is None and findings.queries[0].spearman.value is not None


def replaced(path: Path, change: Callable[[list[Member]], list[Member]]) -> None:
    with tarfile.open(path) as tar:
        members = [(one.name, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
    write_tar(path, change(members))


@pytest.fixture
def small(tmp_path: Path) -> Made:
    return make(tmp_path, {key_of(n): png(a_mask(np.random.default_rng(n), (32, 16))) for n in range(8)})


def test_a_shard_with_other_images_is_refused(small: Made) -> None:
    path = small.tars / "query-000000.tar"
    replaced(path, lambda members: [(name, textured_image(99) if name == f"{key_of(2)}.jpg" else data)
                                    for name, data in members])  # fmt: skip
    with pytest.raises(UserError, match=f"'{key_of(2)}' in .* is another image"):
        small.find()
    replaced(path, lambda members: [one for one in members if not one[0].startswith(key_of(2))])
    with pytest.raises(UserError, match=f"'{key_of(2)}' is not in it, or not in its place"):
        small.find()
    path.unlink()
    with pytest.raises(UserError, match=r"query-000000 does not exist: .*--shards-root, or the masks with --masks"):
        small.find()


def test_masks_that_were_packed_after_mining_are_read(small: Made) -> None:
    """The images are the same, so the maps are theirs; the order within a sample does not matter."""
    before = small.find()
    for path in small.tars.iterdir():
        replaced(path, lambda members: [one for n in range(0, len(members), 3) for one in members[n : n + 3][::-1]])
    assert small.find().scores == before.scores
    (small.tars / "query-000000.tar").write_bytes((small.tars / "query-000000.tar").read_bytes()[:3000])
    with pytest.raises(UserError, match="is not a whole tar"):
        small.find()


def test_a_run_of_the_first_version(small: Made, tmp_path: Path) -> None:
    before = small.find()
    old = as_first_version(small.root, tmp_path / "OLD")
    assert small.find(run=old).scores == before.scores
    replaced(small.tars / "query-000000.tar", lambda members: [
        (name, data + b"\0" if name == f"{key_of(0)}.jpg" else data) for name, data in members])  # fmt: skip
    with pytest.raises(UserError, match="is another image"):
        small.find(run=old)


def test_nothing_to_compare_is_said(small: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of 8 images has a mask in .*<key>\.png"):
        small.find(masks=(tmp_path,))
    for path in small.tars.iterdir():
        replaced(path, lambda members: [one for one in members if not one[0].endswith(".mask.png")])
    with pytest.raises(UserError, match=f"none of 8 images has a mask in the shards .*--masks.*: .*{key_of(4)}"):
        small.find()
    for n in range(8):
        (tmp_path / f"{key_of(n)}.png").write_bytes(png(np.zeros((4, 4), np.uint8)) if n else b"GIF")
    with pytest.raises(UserError, match=r"no mask .* can be used: 7 images empty, 1 image unreadable \(not a PNG\)"):
        small.find(masks=(tmp_path,))
    with pytest.raises(UserError, match="has no map"):
        small.find(maps=("gradcam",))
    with pytest.raises(UserError, match="--where is empty"):
        small.find(where=" ")


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
