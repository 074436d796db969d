"""A run that the first version wrote, committed as files, is read and worked on by today's program, without torch."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.runs.query import RowSelection, select_rows
from jobs.runs.run import open_run

FROZEN = Path(__file__).parents[1] / "data" / "run-schema-1"
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from jobs.cli import main; main()"

# The rows by pid, camid and key, as `finalize` sorts them; those without a pid last.
SORTED = [
    "-1_c1s1_000009_00",
    "0000_c3s1_000008_00",
    "0001_c1s1_000001_00",
    "0001_c1s1_000005_00",
    "night/cam 2/0001_c2s1_000004_00",
    "0002_c1s1_000006_00",
    "0002_c2s1_000002_00",
    "0003_c1s1_000003_00",
    "0003_c3s1_000007_00",
    "street",
]
# key -> the patch of the 4x2 grid that has all of the attention; that of "street" is the same everywhere.
PATCH = {
    "0001_c1s1_000001_00": 0,
    "0002_c2s1_000002_00": 1,
    "night/cam 2/0001_c2s1_000004_00": 2,
    "0001_c1s1_000005_00": 3,
    "0002_c1s1_000006_00": 4,
    "0003_c3s1_000007_00": 5,
    "0000_c3s1_000008_00": 6,
    "-1_c1s1_000009_00": 7,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that commands may write into."""
    copy = tmp_path_factory.mktemp("frozen") / "RUN"
    shutil.copytree(FROZEN / "RUN", copy)
    return copy


def promptsg(*words: object) -> str:
    """What a command prints, in a process where torch cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def attention(*patches: int) -> np.ndarray:
    """(4, 2) the mean of maps that have all of their mass in one patch each."""
    mean = np.zeros(8)
    for patch in patches:
        mean[patch] += 1 / len(patches)
    return mean.reshape(4, 2)


def test_it_is_of_the_first_version() -> None:
    """What makes it worth keeping: no area90, no role, nothing but what that version wrote."""
    assert json.loads((FROZEN / "RUN" / "run.json").read_text())["schema_version"] == 1
    names = pq.read_schema(FROZEN / "RUN" / "metadata" / "query-000000.parquet").names
    assert len(names) == 20 + 2 * 13 and "mim_attention_area50" in names and "mim_attention_area90" not in names


def test_maps_features_and_keys_come_back() -> None:
    opened = open_run(FROZEN / "RUN")
    assert opened.maps == ("mim_attention", "gradcam/mim")
    assert opened.manifest.asked.target == "label" and opened.manifest.resolved.precision == "fp32"
    assert opened.read_keys("query-000000") == ["0001_c1s1_000001_00", "0002_c2s1_000002_00"]
    assert len(opened.read_keys("gallery-000000")) == 7
    table = opened.metadata().to_table(columns=["shard", "key", "h5_row"])
    rows = [row for row in table.to_pylist() if row["key"] in PATCH]
    found = opened.maps_of("mim_attention", rows)
    for row, values in zip(rows, found, strict=True):
        np.testing.assert_array_equal(values, attention(PATCH[row["key"]]))
    gradcam = opened.maps_of("gradcam/mim", rows)
    for row, values in zip(rows, gradcam, strict=True):
        np.testing.assert_array_equal(values, PATCH[row["key"]] * np.arange(8).reshape(4, 2))
    first = opened.read_features("gallery-000000", [0])
    np.testing.assert_allclose(first, [[0.8, 0, 0.6, 0, 0, 0, 0, 0]], rtol=1e-6)


def test_rows_are_selected() -> None:
    opened = open_run(FROZEN / "RUN")
    chosen = select_rows(opened, RowSelection(where="pid = 1", order_by="key DESC"))
    assert chosen["key"].to_pylist() == [
        "night/cam 2/0001_c2s1_000004_00",
        "0001_c1s1_000005_00",
        "0001_c1s1_000001_00",
    ]
    assert chosen["camid"].to_pylist() == [1, 0, 0]
    assert chosen["mim_attention_entropy"].to_pylist() == [0, 0, 0]
    assert chosen["mim_attention_area50"].to_pylist() == [1 / 8] * 3
    (street,) = select_rows(opened, RowSelection(where="status = 'no_label'")).to_pylist()
    assert street["key"] == "street" and street["pid"] is None and street["gradcam_mim_mass"] is None
    assert street["mim_attention_entropy"] == pytest.approx(math.log(8)) and street["mim_attention_area50"] == 0.5
    (damaged,) = select_rows(opened, RowSelection(where="h5_row IS NULL")).to_pylist()
    assert (damaged["key"], damaged["status"], damaged["pid"]) == ("0003_c1s1_000003_00", "image_corrupt", 3)


def test_status_and_verify(run: Path) -> None:
    found = json.loads(promptsg("status", run, "--json"))
    assert (found["shards"], found["done"], found["images"], found["missing"]) == (2, 2, 9, [])
    assert found["failed_images"] == {"image_corrupt": 1} and found["partial_images"] == {"no_label": 1}
    assert found["zero_maps"] == {"gradcam/mim": 1}
    assert "2 of 2 shards are intact, 10 rows" in promptsg("verify", run)


def test_finalize(run: Path) -> None:
    promptsg("finalize", run)
    rows = pq.read_table(run / "metadata.parquet")
    assert rows["key"].to_pylist() == SORTED
    assert rows["pid"].to_pylist() == [-1, 0, 1, 1, 1, 2, 2, 3, 3, None]


def test_stats(run: Path) -> None:
    promptsg("stats", run, "--by", "camid", "--output", run / "stats")
    with h5py.File(run / "stats" / "mean_maps.h5") as file:
        means = file["mim_attention/mean"][:]
    wanted = [attention(0, 3, 4, 7), attention(1, 2), attention(5, 6), np.full((4, 2), 1 / 8)]  # camid 0, 1, 2, null
    np.testing.assert_allclose(means, wanted, atol=1e-12)
    with (run / "stats" / "stats.csv").open() as text:
        rows = {(row["camid"], row["map"], row["measure"]): row for row in csv.DictReader(text)}
    assert rows["0", "mim_attention", "images"]["value"] == "4"
    assert rows["0", "gradcam/mim", "zero_maps"]["value"] == "1"
    assert float(rows["1", "mim_attention", "com_x"]["value"]) == pytest.approx(0.5)  # patches 1 and 2: 0.75, 0.25


def test_evaluate(run: Path) -> None:
    """The query of person 1 meets another person first (AP 1/2), that of person 2 the right one (AP 1)."""
    promptsg("evaluate", run)
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert (metrics["queries"], metrics["gallery"], metrics["gallery_junk"]) == (2, 5, 1)
    assert metrics["mAP"] == 0.75 and metrics["cmc"][:2] == [0.5, 1.0]
    assert (run / "evaluation" / "failures.txt").read_text().split() == ["0001_c1s1_000001_00"]


def test_render(run: Path) -> None:
    words = ["--map", "mim_attention", "--style", "panel", "--shards-root", FROZEN / "shards"]
    promptsg("render", run, *words, "--where", "pid = 1", "--output", run / "pictures")
    assert sorted(path.name for path in (run / "pictures").glob("*.png")) == [
        "0001_c1s1_000001_00__panel.png",
        "0001_c1s1_000005_00__panel.png",
        "night__cam 2__0001_c2s1_000004_00__panel.png",
    ]
