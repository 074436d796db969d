"""Statistics, differences and localisation of single heads, against numpy on what h5py reads."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from cam.measures import STRIPES, measure_maps
from jobs.cli import main
from jobs.comparison.diff import DiffConfig, diff_runs
from jobs.runs.run import Run
from jobs.statistics.accumulate import accumulate
from jobs.statistics.chosen import choose_images
from jobs.statistics.question import make_question
from jobs.statistics.report.findings import stats_table
from jobs.statistics.stats import ShardBlock, StatsConfig, stats
from jobs.statistics.stored import STORED, stored_columns
from tests.support.made_heads import COUNT, heads_in, run_with_heads

HEADS = ("mim_attention#1", "mim_attention#4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return run_with_heads(folder)


def of_split(run: Run, shard: str, head: int) -> NDArray[np.float32]:
    return heads_in(run, shard)[:, head]


def test_each_measure_is_the_mean_over_the_heads_maps(run: Run, tmp_path: Path) -> None:
    config = StatsConfig(run=run.layout.root, by=("shard",), maps=HEADS, output=tmp_path, resamples=10)
    found = stats(config).findings
    assert found is not None
    table = stats_table(found).to_pylist()
    value = {(row["shard"], row["map"], row["measure"]): row["value"] for row in table}
    for shard in ("query-0", "gallery-0"):
        for name, head in zip(HEADS, (1, 4), strict=True):
            measured = measure_maps(of_split(run, shard, head))
            for measure in (*STORED, *(f"stripe_{i}" for i in range(STRIPES))):
                assert value[shard, name, measure] == pytest.approx(measured[measure].mean(), rel=1e-5), measure
            assert value[shard, name, "images"] == len(measured["mass"])
    mean_map = found.summary.maps["mim_attention#4"].mean
    groups = found.part.groups["shard"].to_pylist()
    for place, shard in enumerate(groups):
        np.testing.assert_allclose(mean_map[place], of_split(run, shard, 4).mean(axis=0), rtol=1e-5)
    assert (tmp_path / "figures/mean_map_mim_attention_head4.png").is_file()
    assert "mim_attention head 4" in (tmp_path / "report.html").read_text()


def test_the_mean_of_all_heads_is_the_attention(run: Run) -> None:
    question = make_question(run, maps=("mim_attention#all", "mim_attention"))
    assert len(question.maps) == COUNT + 1
    images = choose_images(run, question, run.published(), stored_columns(run, question.maps))
    clusters = accumulate(images).clusters
    shares = [clusters.of_map(k, slice(0, len(images.identity))).share for k in range(COUNT + 1)]
    np.testing.assert_allclose(np.mean(shares[:COUNT], axis=0), shares[COUNT], rtol=1e-4)


def test_parts_of_heads_merge(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.statistics.report.files.draw_figures", lambda _: {})
    whole = stats(StatsConfig(run=run.layout.root, maps=HEADS, output=tmp_path / "whole"))
    parts = []
    for index in (0, 1):
        part = stats(StatsConfig(run=run.layout.root, maps=HEADS, output=tmp_path, block=ShardBlock(index, 2))).part
        assert part is not None
        parts.append(part)
    merged = stats(StatsConfig(run=run.layout.root, parts=tuple(parts), output=tmp_path / "merged"))
    assert whole.findings is not None and merged.findings is not None
    assert merged.findings.part.question.maps == HEADS
    np.testing.assert_allclose(merged.findings.summary.value, whole.findings.summary.value, rtol=1e-6)
    assert [one.key for one in merged.findings.outliers] == [one.key for one in whole.findings.outliers]


def test_runs_differ_head_by_head(run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run B has the same heads in reverse order: its head 0 is this run's head 4."""
    monkeypatch.setattr("jobs.comparison.report.files.draw_figures", lambda _: {})
    other = run_with_heads(folder, "OTHER", reverse=True)
    config = DiffConfig(run_a=run.layout.root, run_b=other.layout.root, maps=("mim_attention#0",), output=tmp_path,
                        resamples=10)  # fmt: skip
    rows = pq.read_table(diff_runs(config).files.table, filters=[("shard", "==", "query-0")])
    a, b = of_split(run, "query-0", 0), of_split(run, "query-0", COUNT - 1)
    np.testing.assert_array_equal(of_split(other, "query-0", 0), b)
    assert rows["key"].to_pylist() == run.read_keys("query-0")
    measured_a, measured_b = measure_maps(a), measure_maps(b)
    for column, measure in {"com_dx": "com_x", "com_dy": "com_y", "area50_shift": "area50"}.items():
        wanted = measured_b[measure] - measured_a[measure]
        np.testing.assert_allclose(rows[f"mim_attention_head0_{column}"].to_numpy(), wanted, atol=1e-6)
    moved = np.abs(b - a).sum(axis=(1, 2)) / 2  # each head sums to 1
    np.testing.assert_allclose(rows["mim_attention_head0_moved"].to_numpy(), moved, rtol=1e-4)
    # The report prints the command that draws the images, which runs as it stands.
    (command,) = re.findall("<pre class=command>(.*?)</pre>", (tmp_path / "report.html").read_text())
    words = shlex.split(html.unescape(command))
    assert words[words.index("--map") + 1] == "mim_attention#0"
    result = CliRunner().invoke(main, words[1:], catch_exceptions=False)
    assert "32 pictures written" in result.output
