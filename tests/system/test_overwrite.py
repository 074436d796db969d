"""`--overwrite` beside a job that is still alive: nothing of the old run gets into the new one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs.atomic import exclusive
from jobs.runs.footer import read_footer
from jobs.runs.integrity.run_json import RunReplacedError, refuse_replaced
from jobs.runs.layout import RunLayout
from jobs.runs.restart import discard_run
from jobs.runs.verify import verify
from tests.support.made_runs import made_manifest, made_samples, made_shard
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint

# The command line, in a process that stops before its first shard, when it has no temporary file yet, until FILE.go.
WAITING = """
import sys, time
from pathlib import Path
import jobs.mining.mine as mining
go, run_worker = Path(sys.argv.pop(1)), mining._run_worker

def waiting(*arguments, **options):
    go.with_suffix(".ready").touch()
    while not go.exists():
        time.sleep(0.01)
    return run_worker(*arguments, **options)

mining._run_worker = waiting
from jobs.cli import main
main(sys.argv[1:])
"""


def start(go: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    """A job that has started its run, and waits before its first shard."""
    command = [sys.executable, "-c", WAITING, str(go), "mine", "--shards", f"{folder}/s-*.tar", "--checkpoint",
               str(folder / "m.pth"), "--output", str(folder / "RUN"), "--maps", "mim_attention", "--device", "cpu",
               "--workers", "0", *words]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not go.with_suffix(".ready").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


def test_an_old_job_publishes_nothing_in_the_run_that_replaced_its_own(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "m.pth", image_size=(64, 32))
    for number in range(3):
        market_shard(tmp_path / f"s-{number}.tar", 4, first=10 * number)
    old = start(tmp_path / "old.go", tmp_path, "--precision", "bf16")
    new = start(tmp_path / "new.go", tmp_path, "--precision", "fp32", "--overwrite")
    (tmp_path / "old.go").touch()
    _, said = old.communicate(timeout=100)
    lines = [line for line in said.splitlines() if line.startswith("promptsg: ")]
    assert old.returncode == 1 and "Traceback" not in said
    assert lines == [
        f"promptsg: {tmp_path}/RUN was replaced by another run while this job was mining it (--overwrite of another "
        "job?): nothing more is published, and this job ends"
    ]
    assert said.count("replaced by another run") == 1  # not once for each shard
    layout = RunLayout(tmp_path / "RUN")
    assert layout.done() == set() and not list(layout.maps.iterdir())
    (tmp_path / "new.go").touch()
    _, said = new.communicate(timeout=100)
    assert new.returncode == 0, said
    fingerprint = json.loads(layout.manifest.read_text())["fingerprint"]
    assert {read_footer(path).fingerprint for path in layout.metadata.iterdir()} == {fingerprint}
    assert verify(tmp_path / "RUN").intact == 3


def test_a_shard_is_not_published_without_its_run(tmp_path: Path) -> None:
    manifest = made_manifest(tmp_path, ["a"])
    layout = RunLayout(tmp_path)
    refuse_replaced(layout, manifest)
    layout.manifest.unlink()
    with pytest.raises(RunReplacedError, match="was deleted while this job was mining it"):
        made_shard(tmp_path, manifest, "a", made_samples(5))
    with pytest.raises(RunReplacedError, match="was replaced by another run"):  # also by one of the same request
        made_manifest(tmp_path, ["a"])
        made_shard(tmp_path, manifest, "a", made_samples(5))
    assert layout.done() == set() and not list(layout.maps.glob("*.h5"))
    made_shard(tmp_path, made_manifest(tmp_path, ["a"]), "a", made_samples(5))


def test_a_run_is_not_deleted_while_a_shard_is_being_published(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    made_manifest(tmp_path, ["a"])
    deleting = threading.Thread(target=discard_run, args=(layout, lambda _: None))
    with exclusive(layout.lock):
        deleting.start()
        deleting.join(0.3)
        assert deleting.is_alive() and layout.manifest.exists()
    deleting.join(10)
    assert not layout.manifest.exists()
