"""Maps of overlapping patches over whole commands: every picture and number has them where the patches are."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cam.overlay import apply_colormap
from jobs.cli import main
from jobs.rendering.requests import RECORD
from jobs.runs import manifest as manifests
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import create_manifest
from jobs.runs.metadata_rows import Results
from jobs.runs.request import RecordedShard, RequestedSettings, ResolvedSettings, RunRequest
from jobs.runs.run import open_run
from jobs.runs.shard_output import ShardOutput
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import expand_shards
from tests.support.shard_files import write_tar
from tests.support.tiny import tiny_checkpoint

STRIDE_12 = {"image_size": [256, 128], "patch_size": 16, "stride": 12}
GRID = (21, 10)
COLUMN = 116 / 128  # the centre of the last column: 8 + 9 * 12 pixels


def promptsg(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def make_run(folder: Path, model: dict[str, object]) -> Path:
    """A run of one black image with a single hot patch, in row 10 of the last column."""
    black = io.BytesIO()
    Image.new("RGB", (128, 256)).save(black, "PNG")
    tar = write_tar(folder / "query-0.tar", [("0001_c1s1_000001_00.png", black.getvalue())])
    request = RunRequest(
        asked=RequestedSettings(maps=("mim_attention",)),
        shards=(RecordedShard(name="query-0", url=str(tar), size=tar.stat().st_size),),
    )
    layout = RunLayout(folder / "RUN")
    made = create_manifest(layout, request, ResolvedSettings.model_validate({"model": model}))
    with TarReader(expand_shards([str(tar)])[0]) as reader:
        samples = [sample for sample, _ in read_samples(reader, "query-0")]
    samples[0].width, samples[0].height = 128, 256
    maps = np.zeros((1, *GRID), np.float32)
    maps[0, 10, 9] = 1
    one = np.ones(1, np.float32)
    output = ShardOutput(layout, made, "query-0", 0.0)
    results = Results(maps={"mim_attention": maps}, features=np.ones((1, 3), np.float32), score=one, probability=one,
                      predicted=np.zeros(1, np.int64))  # fmt: skip
    output.add(SampleColumns.of(samples), results)
    assert output.commit().published
    return layout.root


def brightest_column(picture: np.ndarray) -> float:
    """Where, as a share of the width, the plateau right of the last centre begins, half-way down the picture."""
    light = picture[picture.shape[0] // 2].astype(int).sum(axis=1)
    return float(np.flatnonzero(light >= light.max() - 6)[0] / picture.shape[1])


@pytest.mark.parametrize("version", [2, 3])
def test_the_centre_of_mass_is_the_patches_own_since_version_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """A run keeps the rule that it was started with: shards of one run never differ in it."""
    monkeypatch.setattr(manifests, "SCHEMA_VERSION", version)
    run = make_run(tmp_path, STRIDE_12)
    (row,) = open_run(run).metadata().to_table().to_pylist()
    wanted = (COLUMN, 128 / 256) if version == 3 else (9.5 / 10, 10.5 / 21)
    assert (row["mim_attention_com_x"], row["mim_attention_com_y"]) == pytest.approx(wanted)
    promptsg("stats", run, "--output", tmp_path / "stats")
    with (tmp_path / "stats" / "stats.csv").open() as text:
        found = {line["measure"]: float(line["value"]) for line in csv.DictReader(text) if line["value"]}
    assert found["com_x"] == pytest.approx(wanted[0])
    for stripe in range(6):  # `stats` computes them from the maps, by the same rule
        assert found[f"stripe_{stripe}"] == pytest.approx(row[f"mim_attention_stripe_{stripe}"])


@pytest.mark.parametrize("upsample", ["bilinear", "nearest", "bicubic"])
def test_render_draws_a_patch_where_it_is(tmp_path: Path, upsample: str) -> None:
    """Runs of all versions are drawn right: run.json has the sizes of the model."""
    run = make_run(tmp_path, STRIDE_12)
    words = ["--colormap", "bone", "--alpha", 1, "--upsample", upsample]
    promptsg("render", run, *words, "--output", tmp_path / "pictures")
    (path,) = (tmp_path / "pictures").glob("*.png")
    found = brightest_column(np.asarray(Image.open(path).convert("RGB")))
    assert found * 128 == pytest.approx(110 if upsample == "nearest" else 116, abs=1.01)


def test_a_run_that_does_not_know_its_patches_is_drawn_as_before(tmp_path: Path) -> None:
    run = make_run(tmp_path, {})
    promptsg("render", run, "--colormap", "bone", "--alpha", 1, "--output", tmp_path / "pictures")
    (path,) = (tmp_path / "pictures").glob("*.png")
    assert brightest_column(np.asarray(Image.open(path).convert("RGB"))) * 128 == pytest.approx(121.6, abs=1.01)


def test_pictures_that_were_drawn_in_equal_cells_are_not_kept(tmp_path: Path) -> None:
    """An earlier version's request differs, so that old and new pictures never lie in one folder."""
    run = make_run(tmp_path, STRIDE_12)
    promptsg("render", run, "--output", tmp_path / "pictures")
    placed = json.loads((tmp_path / "pictures" / RECORD).read_text())["overlay"]
    run = make_run(tmp_path / "earlier", {})
    promptsg("render", run, "--output", tmp_path / "even")
    assert placed != json.loads((tmp_path / "even" / RECORD).read_text())["overlay"]


def test_the_gallery_and_its_page_draw_a_patch_where_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path, STRIDE_12)
    promptsg("gallery", run, "--output", tmp_path / "page", "--colormap", "bone", "--alpha", 1, "--thumb-height", 256)
    thumb = np.asarray(Image.open(tmp_path / "page" / "thumbs" / "0000" / "000000.mim_attention.jpg"))
    assert brightest_column(thumb) * 128 == pytest.approx(116, abs=2)
    found = re.search(r"window.GALLERY = (.*);", (tmp_path / "page" / "data.js").read_text())
    assert found is not None
    (top, down), (left, across) = json.loads(found[1])["centres"]  # what the page's own drawing starts from
    assert left + 9 * across == pytest.approx(COLUMN) and top + 10 * down == pytest.approx(0.5)


def test_visualize_draws_a_models_own_map_where_its_patches_are(tmp_path: Path) -> None:
    """A real model whose patches of 4 pixels begin every 3: the grid of stride 12, in a quarter of the pixels."""
    config = tiny_checkpoint(tmp_path / "m.pth", image_size=(64, 32), patch_size=4, stride=3)
    assert config.grid == GRID
    noise = np.random.default_rng(0).integers(0, 255, (64, 32, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "0001_c1s1_000001_00.png")
    stated = ["--checkpoint", tmp_path / "m.pth", "--model-set", "INPUT.SIZE_TEST", "[64, 32]", "--model-set",
              "MODEL.STRIDE_SIZE", 3, "--colormap", "bone", "--alpha", 1]  # fmt: skip
    promptsg("visualize", tmp_path / "0001_c1s1_000001_00.png", "--output", tmp_path / "single", *stated)
    with np.load(tmp_path / "single" / "0001_c1s1_000001_00.npz") as arrays:
        values = arrays["mim_attention"]
    drawn = np.asarray(Image.open(tmp_path / "single" / "0001_c1s1_000001_00__mim_attention__heatmap.png"))
    scaled = (values - values.min()) / (values.max() - values.min())
    across = np.stack([np.interp(np.arange(32) + 0.5, 2 + 3 * np.arange(10), row) for row in scaled])
    wanted = np.stack([np.interp(np.arange(64) + 0.5, 2 + 3 * np.arange(21), column) for column in across.T], axis=1)
    difference = np.abs(drawn.astype(int) - apply_colormap(wanted.astype(np.float32), "bone"))
    assert difference.max() <= 2  # a level of the colour map
