"""`python -m tests.gpu` without a GPU: parts are guarded and kept, and its pieces give the right values."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cam.extract import Extraction
from jobs.runs.events import ShardEvent
from jobs.shards.tar import TarReader
from jobs.shards.urls import expand_shards
from tests.gpu import job, parts, speed
from tests.gpu.__main__ import parse
from tests.gpu.agreement import agreement_of, correlation
from tests.gpu.in_short import in_short
from tests.gpu.job import Arm, rate_between
from tests.gpu.parts import Kept, Part, PartResult, Results, run_parts
from tests.gpu.pictures import decoded, drawn_jpegs, many, write_shards
from tests.gpu.plan import PARTS
from tests.gpu.setting import Setting
from tests.gpu.suite import read_results
from tests.gpu.timeline import Work, timeline_of
from tests.gpu.watch import Watch
from tests.gpu.wheels import install_wheels


def setting(folder: Path, seconds: float = 60.0) -> Setting:
    return Setting(out=folder, scratch=folder, device="cpu", small=True, ends=time.monotonic() + seconds)


def part(name: str, *, least: float = 0.0, most: float = 20.0) -> Part:
    return Part(name=name, module=name, least=least, most=most)


# What stands for the parts' own processes: each keeps a figure, and ends in its own way.
CODE = """
import sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / f"part-{name}.json").write_text('{"figure": 1}')
(folder / f"seen by {name}.json").write_bytes((folder / "results.json").read_bytes() if name != "raises" else b"{}")
if name == "raises":
    raise ValueError("no such kernel")
if name == "hangs":
    time.sleep(60)
"""


@pytest.fixture
def fake_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        parts, "command_of", lambda part, given: [sys.executable, "-c", CODE, str(given.scratch), part.name]
    )


@pytest.mark.usefixtures("fake_parts")
def test_what_a_part_raises_is_kept_and_the_next_follows(tmp_path: Path) -> None:
    log, results = io.StringIO(), Results(file=tmp_path / "results.json")
    asked = [part("raises"), part("hangs", most=1.0), part("long", least=1000), part("works")]
    on_gpu = replace(setting(tmp_path), device="cuda")
    run_parts(asked, on_gpu, results, log)
    written = json.loads((tmp_path / "results.json").read_bytes())
    assert {name: one["status"] for name, one in written.items()} == {
        "raises": "failed", "hangs": "out of time", "long": "skipped", "works": "done",
    }  # fmt: skip
    assert [written[name]["found"] for name in ("raises", "hangs", "long", "works")] == [{"figure": 1}] * 2 + [None] + [
        {"figure": 1}
    ]
    assert written["raises"]["said"].rstrip().endswith("ValueError: no such kernel")
    assert 1.0 <= written["hangs"]["seconds"] < 10
    # The file is written after each part, and while one runs.
    assert json.loads((tmp_path / "seen by works.json").read_bytes()).keys() == {"raises", "hangs", "long"}
    assert "== long: skipped" in log.getvalue() and "no such kernel" in log.getvalue()


def test_the_plan_names_parts_that_are_there_within_six_minutes() -> None:
    for one in PARTS:
        assert callable(importlib.import_module(f"tests.gpu.{one.module}").measure) and one.least < one.most
    assert len({one.name for one in PARTS}) == len(PARTS)
    asked = parse(["--out", "x", "--wheels", "w"])
    assert 300 < asked.setting.seconds_left < 360 and asked.setting.wheels == Path("w") and asked.setting.on_gpu
    asked.setting.scratch.rmdir()


def test_a_part_runs_in_a_process_of_its_own_and_keeps_its_facts(tmp_path: Path) -> None:
    words = ["--out", str(tmp_path), "--device", "cpu", "--small", "--only", "machine"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "tests.gpu", *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr + done.stdout
    facts = json.loads((tmp_path / "results.json").read_bytes())["machine"]
    assert facts["status"] == "done" and facts["found"]["torch"] == torch.__version__
    assert "== machine" in (tmp_path / "log.txt").read_text() and "== in short" in done.stdout
    assert not list(tmp_path.glob("promptsg-gpu-*"))  # scratch files are gone


def test_the_model_is_made_and_its_speed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = setting(tmp_path)
    importlib.import_module("tests.gpu.made_model").measure(given, Kept(given, "model"))
    assert len(list(given.shards.glob("*.tar"))) == 60
    monkeypatch.setattr(speed, "KNOWN_PRECISIONS", ("fp32",))
    monkeypatch.setattr(speed, "SMALL_BATCHES", (1, 2, 4))
    real = speed._speed

    def too_large(model: object, precision: str, images: torch.Tensor, _seconds: float) -> speed.Speed:
        if len(images) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, precision, images, 0.0)  # type: ignore[arg-type]

    monkeypatch.setattr(speed, "_speed", too_large)
    speed.measure(given, Kept(given, "speed"))
    found = Kept(given, "speed").read()
    assert isinstance(found, dict) and found["out_of_memory_at"] == {"fp32": 4}
    assert [(one["precision"], one["batch"]) for one in found["speeds"]] == [("fp32", 1), ("fp32", 2)]
    assert all(one["seven_maps"] > 0 and one["forward"] > 0 for one in found["speeds"])


def test_shards_hold_the_drawn_images(tmp_path: Path) -> None:
    jpegs = drawn_jpegs(3)
    write_shards(tmp_path / "s", jpegs, shards=2, images_each=7)
    for shard in expand_shards([str(tmp_path / "s")]):
        with TarReader(shard) as tar:
            assert sum(1 for _ in tar) == 14
    assert len(set(jpegs)) == 3
    pixels = decoded(jpegs, (64, 32))
    assert pixels.shape == (3, 3, 64, 32) and many(pixels, 5).equal(pixels[[0, 1, 2, 0, 1]])


def test_a_timeline_by_hand() -> None:
    ran = [
        Work(name="b", start=3000, end=5000),
        Work(name="a", start=0, end=1000),
        Work(name="c", start=4000, end=4500),
        Work(name="Memcpy DtoH", start=5500, end=6000),
    ]
    found = timeline_of(ran, most_gaps=1)
    assert (found.kernels, found.copies, found.span, found.busy) == (3, 1, 6.0, 3.5)
    assert [(gap.milliseconds, gap.after, gap.before) for gap in found.gaps] == [(2.0, "a", "b")]
    assert timeline_of(ran).gaps[1].before == "Memcpy DtoH"


def test_rates_by_hand() -> None:
    events = [ShardEvent(shard=str(n), images=100, time=1000.0 + 2 * n) for n in range(6)]
    assert rate_between(events, 1002.5, 1009.0) == 50.0  # three shards from 1002 to 1008
    assert rate_between(events, 999.0, 1009.0) is None and rate_between(events[:1], 1001, 1009) is None
    words = job.command_of(Arm(processes=3, batch=256), 2, Setting(out=Path("o"), scratch=Path("s")), Path("RUN"))
    text = " ".join(words)
    assert "--array-index 2 --array-count 3" in text and "--batch-size 256" in text and "--image-size 256x128" in text
    assert text.count("--maps ") == 7


def test_agreement_by_hand() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 5, 4, 2))
    wanted = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(one, other, strict=True)]
    found = correlation(torch.from_numpy(one), torch.from_numpy(other))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)

    def extraction(maps: np.ndarray, predicted: list[int]) -> Extraction:
        zeros = torch.zeros(5)
        return Extraction(maps={"m": torch.from_numpy(maps)}, score=zeros, predicted=torch.tensor(predicted),
                          probability=zeros, features=torch.from_numpy(maps[:, 0]), attention_heads=zeros)  # fmt: skip

    agreement = agreement_of(extraction(one, [1, 2, 3, 4, 9]), extraction(other, [1, 2, 3, 4, 5]))
    assert (agreement.images, agreement.same_class, agreement.finite) == (5, 0.8, True)
    assert agreement.maps["m"].median == pytest.approx(np.median(wanted[:4]), abs=1e-6)
    assert agreement.maps["m"].least == pytest.approx(min(wanted[:4]), abs=1e-6)
    largest = np.abs(one[:, 0] - other[:, 0]).max() / other[:, 0].max()
    assert agreement.features_error == pytest.approx(largest)


def test_the_results_of_tests_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.xml").write_text(
        '<testsuites><testsuite><testcase classname="a" name="x"/><testcase classname="a" name="y">'
        '<failure message="assert 1 == 2">where it was</failure></testcase><testcase classname="a" name="z">'
        '<skipped message="needs a CUDA device"/></testcase></testsuite></testsuites>'
    )
    found = read_results(tmp_path / "t.xml")
    assert found.passed == 1
    assert [(one.test, one.how) for one in found.others] == [("a::y", "failed"), ("a::z", "skipped")]
    assert "assert 1 == 2\nwhere it was" in found.others[0].said and "needs a CUDA device" in found.others[1].said


def test_nvidia_smi_is_read_while_something_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho '80, 1000, 300.5, 1980'\necho '[N/A], 1, 1, 1'\necho '40, 3000, 100.5, 1000'\nsleep 60\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    began = time.time()
    with Watch(0) as watch:
        while len(watch.seen) < 2 and time.time() < began + 20:
            time.sleep(0.01)
    use = watch.between(began, time.time())
    assert use is not None and (use.readings, use.working_percent, use.memory_mib, use.clock_mhz) == (
        2,
        60.0,
        2000,
        1490,
    )
    assert watch.between(began - 2, began - 1) is None
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with Watch(0) as blind, Watch(None):
        assert blind.between(0, time.time()) is None


def test_wheels_are_installed_beside_and_what_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert install_wheels(tmp_path, tmp_path / "site") == f"no wheels in {tmp_path}"
    with zipfile.ZipFile(tmp_path / "carried_thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried_thing.py", "NUMBER = 7\n")
        info = "carried_thing-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: carried-thing\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    assert install_wheels(tmp_path, tmp_path / "site") == f"installed 1 wheels from {tmp_path}"
    assert importlib.import_module("carried_thing").NUMBER == 7
    monkeypatch.setattr(sys, "executable", "false")
    assert "were not installed: " in install_wheels(tmp_path, tmp_path / "site")


def test_the_short_table_says_what_is_to_be_reached(tmp_path: Path) -> None:
    results = Results(file=tmp_path / "results.json")
    speeds = [{"precision": "fp16", "batch": 256, "seven_maps": 12000.0, "forward": 20000.0}]
    jobs = [{"processes": 3, "batch": 256, "images_per_second": 9000.0, "gpu": {"working_percent": 88.0},
             "main_process_us": 55.0, "problem": ""},
            {"processes": 5, "batch": 256, "images_per_second": None, "gpu": None, "main_process_us": None,
             "problem": "a process ended"}]  # fmt: skip
    results.put("speed", PartResult(status="done", found={"speeds": speeds}))
    results.put("job", PartResult(status="out of time", found=jobs))
    said = list(in_short(results))
    assert "job: out of time" in said
    assert "model, best: 12,000 images/s; to be reached on an H100: 10,000" in said
    assert any("9,000 images/s, 0.75 of the model in fp16" in line and "works 88.0 %" in line for line in said)
    assert any("5 processes" in line and "no figure (a process ended)" in line for line in said)
