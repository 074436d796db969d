"""That the programs that measure keep up with the code: each starts, and the arms of `bench_stats` do their work."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from jobs.runs.run import open_run
from tests.bench import bench_diff, bench_stats

PROGRAMS = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_starts(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "bench_maps":
        pytest.importorskip("pytorch_grad_cam", reason="needs pytorch-grad-cam: pip install '.[bench]'")
        pytest.importorskip("captum", reason="needs captum: pip install '.[bench]'")
    program = importlib.import_module(f"tests.bench.{name}")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        program.main()
    assert f"usage: {name}" in capsys.readouterr().out


def test_the_arms_of_stats_read_all_that_was_made(tmp_path: Path) -> None:
    bench_stats.make(tmp_path / "RUN", 300, shuffled=False)
    assert bench_stats.bare_loop(open_run(tmp_path / "RUN")) == 300 * 16 * 8
    assert bench_stats.one_pass(tmp_path / "RUN", ["camid"]) == 300


def test_the_arms_of_diff_read_and_compare_all_that_was_made(tmp_path: Path) -> None:
    roots = (tmp_path / "A", tmp_path / "B")
    for seed, root in enumerate(roots):
        bench_stats.make(root, 300, shuffled=False, seed=seed)
    assert bench_diff.bare((open_run(roots[0]), open_run(roots[1]))) == 2 * 300 * 16 * 8
    assert bench_diff.one_pass(roots, ["camid"], tmp_path) == 300
