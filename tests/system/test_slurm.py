"""`promptsg submit` on a real Slurm: arrays, a killed element, a time limit, a second submission, torchrun."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from jobs.cli import main
from jobs.commands.submit import command
from jobs.mining.config import build_config
from jobs.mining.mine import mine
from jobs.runs.layout import RunLayout
from jobs.runs.run import open_run
from jobs.submission.queue import queued_elements
from tests.support.private_slurm import Slurm, missing_programs, private_slurm
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint

MISSING = missing_programs()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(MISSING), reason=f"needs Slurm and munge, and root; missing: {', '.join(MISSING)}"),
]

SHARDS, IMAGES = 12, 6
MAPS = ("mim_attention", "gradcam++/mim")
# While the marker exists, a sample in each 10 s or so: a shard of 80 s, with moments to drain between batches.
_SLOW = """
import sys, time
from pathlib import Path
marker, tar = Path(sys.argv[1]), Path(sys.argv[2])
data = tar.read_bytes()
for start in range(0, len(data), 1024):
    if marker.exists():
        time.sleep(4)
    sys.stdout.buffer.write(data[start : start + 1024])
    sys.stdout.buffer.flush()
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with private_slurm() as running:
        yield running


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint and 12 shards; `slow.py` reads a shard as slowly as a marker file asks."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32))
    for number in range(SHARDS):
        market_shard(folder / f"train-{number:06d}.tar", IMAGES, first=IMAGES * number)
    (folder / "slow.py").write_text(_SLOW)
    return folder


@pytest.fixture(scope="module")
def reference(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shards mined by one process without Slurm."""
    run = tmp_path_factory.mktemp("reference") / "RUN"
    assert mine(build_config(write_config(inputs, run), {})).exit_status == 0
    return run


def write_config(inputs: Path, run: Path, slow: tuple[int, ...] = ()) -> Path:
    """A configuration; the shards in `slow` are read through slow.py, as long as RUN's marker exists."""
    marker = run.parent / "slow"
    shards = [str(inputs / f"train-{number:06d}.tar") for number in range(SHARDS)]
    for number in slow:
        words = [sys.executable, str(inputs / "slow.py"), str(marker), shards[number]]
        shards[number] = f"pipe:{shlex.join(words)}"
    content: dict[str, object] = {
        "shards": shards,
        "checkpoint": str(inputs / "m.pth"),
        "output": str(run),
        "maps": list(MAPS),
    }
    content |= {"device": "cpu", "precision": "fp32", "batch_size": 1, "workers": 0}
    path = run.parent / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def submit(slurm: Slurm, config: Path, *words: str) -> tuple[str, str]:
    """Submits and returns the ids of the array job and of the finalize job."""
    variables = {**slurm.variables, "SLURM_JOB_ID": "999999", "SLURM_ARRAY_TASK_ID": "7"}  # as from inside a job
    options = ["--array-tasks", "4", "--gpus-per-task", "0", *words]
    result = CliRunner().invoke(command, [str(config), *options], env=variables, catch_exceptions=False)
    found = re.search(r"array job ([0-9]+):.*finalize job ([0-9]+) ", result.stdout)
    assert found is not None, result.output
    return found[1], found[2]


def wait_for(path: Path, text: str, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text(errors="replace")):
        assert time.monotonic() < limit, f"{path} never said {text!r}: {path.exists() and path.read_text()}"
        time.sleep(0.2)


def assert_same(run: Path, reference: Path) -> None:
    """Both runs have the same shards, rows, maps and features."""
    one, other = open_run(run), open_run(reference)
    assert one.layout.done() == other.layout.done() == {f"train-{number:06d}" for number in range(SHARDS)}
    for shard in sorted(other.layout.done()):
        rows, wanted = (pq.read_table(r.layout.shard_metadata(shard)).to_pylist() for r in (one, other))
        assert len(rows) == len(wanted) == IMAGES
        for row, right in zip(rows, wanted, strict=True):
            assert row.keys() == right.keys()
            for key, value in right.items():
                same = pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value
                assert row[key] == same, (shard, key)
        assert one.read_keys(shard) == other.read_keys(shard)
        np.testing.assert_allclose(one.read_features(shard), other.read_features(shard), rtol=1e-4, atol=1e-5)
        for name in MAPS:
            right = other.read_maps(name, shard)
            np.testing.assert_allclose(one.read_maps(name, shard), right, rtol=1e-4, atol=1e-5 * right.max())
    assert not list(run.rglob("*.tmp")), "leftovers"


def assert_finalized(slurm: Slurm, job: str, run: Path, rows: int) -> None:
    assert set(slurm.wait(job, 60).values()) == {"COMPLETED"}, (run / "logs" / f"finalize_{job}.out").read_text()
    keys = pq.read_table(run / "metadata.parquet", columns=["key"])["key"].to_pylist()
    assert len(keys) == len(set(keys)) == rows


def test_an_array_mines_what_one_process_mines(slurm: Slurm, inputs: Path, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "a run's $(folder) %a" / "RUN"
    run.parent.mkdir()
    job, after = submit(slurm, write_config(inputs, run), "--max-running", "3", "--time", "10")
    states = slurm.wait(job, 120)
    logs = {task: (run / "logs" / f"{job}_{task}.out").read_text() for task in range(4)}
    assert states == {f"{job}_{task}": "COMPLETED" for task in range(4)}, logs
    assert_finalized(slurm, after, run, SHARDS * IMAGES)
    assert_same(run, reference)
    for task, log in logs.items():  # a contiguous block of the sorted list to each element, one line to a shard
        assert re.findall(r"(train-[0-9]{6}): 6 images", log) == [
            f"train-{n:06d}" for n in range(3 * task, 3 * task + 3)
        ]
    assert list((run / "drain").iterdir()) == []


def test_a_killed_element_leaves_its_shards_to_the_next_submission(
    slurm: Slurm, inputs: Path, reference: Path, tmp_path: Path
) -> None:
    run, marker = tmp_path / "RUN", tmp_path / "slow"
    # Both are slow: the reading process may die a moment before the mining one, which then goes on to the next shard.
    config = write_config(inputs, run, slow=(4, 5))
    marker.touch()
    two = ("--array-tasks", "2")
    job, after = submit(slurm, config, *two)
    wait_for(run / "logs" / f"{job}_0.out", "train-000003: 6 images", 60)
    slurm.call("scancel", "--full", "--signal=KILL", f"{job}_0")
    states = slurm.wait(job, 120)
    assert states.pop(f"{job}_0") in {"FAILED", "CANCELLED"} and set(states.values()) == {"COMPLETED"}
    assert set(slurm.wait(after, 60).values()) == {"FAILED"}  # afterany: it runs behind a failure, and says what lacks
    said = (run / "logs" / f"finalize_{after}.out").read_text()
    undone = sorted(
        shard.name for shard in open_run(run).manifest.shards if shard.name not in open_run(run).layout.done()
    )
    assert undone == ["train-000004", "train-000005"]
    assert "2 of 12 shards are not done" in said and "train-000004" in said and not (run / "metadata.parquet").exists()
    marker.unlink()
    job, after = submit(slurm, config, *two)
    assert set(slurm.wait(job, 120).values()) == {"COMPLETED"}
    assert_finalized(slurm, after, run, SHARDS * IMAGES)
    assert_same(run, reference)
    again = (run / "logs" / f"{job}_0.out").read_text()
    assert re.findall(r"(train-[0-9]{6}): 6 images", again) == ["train-000004", "train-000005"]


@pytest.mark.slow  # limits have minutes as their unit, and a requeued element waits two more
def test_an_element_at_its_time_limit_requeues_itself_alone(
    slurm: Slurm, inputs: Path, reference: Path, tmp_path: Path
) -> None:
    run, marker = tmp_path / "RUN", tmp_path / "slow"
    marker.touch()
    # Limits have minutes as their unit and the signal may be one early: it comes after 20 to 80 seconds.
    job, after = submit(slurm, write_config(inputs, run, slow=(7,)), "--time", "2", "--drain-seconds", "40")
    log = run / "logs" / f"{job}_2.out"
    wait_for(log, "drained and goes back to the queue", 150)
    marker.unlink()
    states = slurm.wait(job, 150)
    assert set(states.values()) == {"COMPLETED"}, log.read_text()
    for task in range(4):  # on a busy machine others may meet the signal, too; none restarts but at its own request
        text = (run / "logs" / f"{job}_{task}.out").read_text()
        requests = text.count("goes back to the queue")
        assert re.findall(r"restart ([0-9]+) of", text) == [str(n) for n in range(requests + 1)]
        assert task != 2 or requests >= 1
    assert_finalized(slurm, after, run, SHARDS * IMAGES)
    assert_same(run, reference)


def test_requeues_have_an_end_and_a_cancelled_element_stays_cancelled(
    slurm: Slurm, inputs: Path, tmp_path: Path
) -> None:
    run, marker = tmp_path / "RUN", tmp_path / "slow"
    marker.touch()
    config = write_config(inputs, run, slow=(1, 7))
    job, _ = submit(slurm, config, "--array-tasks", "2", "--max-requeues", "0")
    for task, shard in ((0, 0), (1, 6)):
        wait_for(run / "logs" / f"{job}_{task}.out", f"train-{shard:06d}: 6 images", 60)
    slurm.call("scancel", "--batch", "--signal=USR2", f"{job}_0")
    wait_for(run / "logs" / f"{job}_0.out", "was requeued 0 times and is not done", 30)
    slurm.call("scancel", f"{job}_1")
    states = slurm.wait(job, 60)
    assert states[f"{job}_0"] == "FAILED" and states[f"{job}_1"] == "CANCELLED"
    assert "ExitCode=75:0" in slurm.call("scontrol", "show", "job", f"{job}_0")


@pytest.mark.slow  # torchrun alone and an array alone are tested by default
def test_torchrun_in_each_element(slurm: Slurm, inputs: Path, reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    job, after = submit(slurm, write_config(inputs, run), "--array-tasks", "2", "--gpus-per-task", "2")
    states = slurm.wait(job, 180)
    logs = [(run / "logs" / f"{job}_{task}.out").read_text() for task in range(2)]
    assert set(states.values()) == {"COMPLETED"}, logs
    assert [len(re.findall(r"train-[0-9]{6}: 6 images", log)) for log in logs] == [6, 6]
    assert_finalized(slurm, after, run, SHARDS * IMAGES)
    assert_same(run, reference)


def test_sbatch_refuses_in_one_line(slurm: Slurm, inputs: Path, tmp_path: Path) -> None:
    config = write_config(inputs, tmp_path / "RUN")
    result = CliRunner().invoke(
        command, [str(config), "--array-tasks", "2", "--partition", "no such"], env=dict(slurm.variables)
    )
    assert "sbatch refused" in str(result.exception) and "invalid partition" in str(result.exception)


def test_options_reach_slurm_as_text(slurm: Slurm, inputs: Path, tmp_path: Path) -> None:
    evil = "a b'c\"d$(id)`id`;id #&|*%a@RUN@\\"
    words = ["--sbatch-arg", "hold", "--sbatch-arg", f"comment={evil}"]
    job, _ = submit(slurm, write_config(inputs, tmp_path / "RUN"), *words)
    shown = re.findall(r"Comment=(.*)", slurm.call("scontrol", "show", "job", job))
    assert [comment.rstrip() for comment in shown] == [evil]
    slurm.call("scancel", job)


def test_status_shows_the_queue(slurm: Slurm, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, after = submit(slurm, write_config(inputs, tmp_path / "RUN"), "--sbatch-arg", "hold")
    for name, value in slurm.variables.items():
        monkeypatch.setenv(name, value)
    queue = queued_elements(RunLayout(tmp_path / "RUN"))
    assert (
        set(queue) == {"PENDING"} and after in queue["PENDING"] and any(job in element for element in queue["PENDING"])
    )
    slurm.call("scancel", job, after)


def test_the_command_that_bench_prints_runs_as_printed(
    slurm: Slurm, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pasted into a shell, time limit and cores included."""
    monkeypatch.chdir(tmp_path)
    words = ["bench", "--shards", f"{inputs}/train-00000[01].tar", "--checkpoint", str(inputs / "m.pth")]
    words += ["--maps", "mim_attention", "--device", "cpu", "--workers", "0", "--seconds", "0.01"]
    said = CliRunner().invoke(main, words, catch_exceptions=False).stdout
    printed = said[said.index("promptsg submit") :]
    promptsg = f"{shlex.quote(sys.executable)} -m jobs"
    done = subprocess.run(
        ["bash", "-ec", printed.replace("promptsg", promptsg, 1)],
        env={**os.environ, **slurm.variables}, capture_output=True, text=True,
    )  # fmt: skip
    found = re.search(r"array job ([0-9]+):.*finalize job ([0-9]+) ", done.stdout)
    assert found is not None, printed + done.stdout + done.stderr
    assert set(slurm.wait(found[1], 120).values()) == {"COMPLETED"}
    assert_finalized(slurm, found[2], tmp_path / "RUN", 2 * IMAGES)
