"""`promptsg bench` on a tiny model: values, not times."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cam.extract import Extraction, extract_maps
from jobs.benchmark import model_speed
from jobs.benchmark.bench import BenchConfig, bench
from jobs.benchmark.model_speed import BatchSweep, EncodedModel
from jobs.benchmark.report import estimate
from jobs.benchmark.samples import pack, read_images, repeated
from jobs.benchmark.timing import peak_memory
from jobs.cli import main
from jobs.commands.bench import clock, command, describe
from jobs.errors import UserError
from jobs.mining.config import MineConfig, build_config
from jobs.mining.model import load
from jobs.mining.passes.plain import Pass, plain_pass
from jobs.runs.metadata_rows import Results
from jobs.shards.urls import expand_shards
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.model import AnyModel
from tests.support.shard_files import market_shard, sample_members, textured_image, write_tar
from tests.support.tiny import tiny_checkpoint, tiny_state
from tests.support.tiny_clipreid import tiny_clipreid
from tests.support.tiny_irra import tiny_irra

SIZES = {"image_size": (64, 32)}


def test_timing_the_head_alone_gives_the_whole_models_maps() -> None:
    config, state = tiny_state()
    model = PromptSG(config)
    model.load_state_dict({key: state[key] for key in model.state_dict()})
    model = model.requires_grad_(False).eval()
    images = torch.randint(0, 256, (3, 3, *model.config.image_size), dtype=torch.uint8)
    names = ["mim_attention", "gradcam/mim", "gradcam++/vit_last"]
    expected = extract_maps(model, images, names).maps
    for name, maps in extract_maps(EncodedModel(model, images), images, names).maps.items():
        assert maps.equal(expected[name])
    assert repeated(images, 5).equal(images[[0, 1, 2, 0, 1]])


def test_the_number_of_images_is_counted_or_estimated_by_size(tmp_path: Path) -> None:
    for number in range(3):
        market_shard(tmp_path / f"s-{number}.tar", 40, first=40 * number)
    shards = expand_shards([str(tmp_path)])
    assert (whole := read_images(shards, 1000)).total == 120 and len(whole.images) == 120
    part = read_images(shards, 60)
    assert len(part.images) == 60 and 110 <= part.total <= 150
    pack(tmp_path / "again.tar", part.images, 61)
    with tarfile.open(tmp_path / "again.tar") as tar:
        members = tar.getmembers()
        assert len({member.name for member in members}) == 61
        assert tar.extractfile(members[60]).read() == part.images[0]


def test_estimates_by_hand() -> None:
    found = estimate(36_000_000, 1000.0, 5000, shards=3600)
    assert (found.worker_hours, found.output_bytes) == (10.0, 180_000_000_000)
    assert (found.array_elements, found.hours_each) == (4, 3.125)  # 12.5 hours with what is spare, 4 at most each
    assert estimate(36_000_000, 1000.0, 5000, shards=2).array_elements == 2
    assert [clock(hours) for hours in (0.01, 3.125, 25.0)] == ["0:10:00", "3:10:00", "25:00:00"]


def test_the_models_rate_is_its_mean_around_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the luckiest batch size, whose trials time it through another module's name."""
    market_shard(tmp_path / "a.tar", 8)
    tiny_checkpoint(tmp_path / "m.pth", **SIZES)
    timed = iter([10.0, 20.0])
    monkeypatch.setattr("jobs.benchmark.bench.rate_of_model", lambda *_: next(timed))
    words = ["--shards", str(tmp_path / "a.tar"), "--checkpoint", str(tmp_path / "m.pth"), "--device", "cpu"]
    words += ["--precision", "fp32", "--seconds", "0.01", "--workers", "0"]
    said = CliRunner().invoke(command, words, catch_exceptions=False).stdout
    assert re.search(r"^ +model +15\.0", said, re.MULTILINE) and "promptsg submit --array-tasks 1" in said
    assert next(timed, None) is None


def test_bench_measures_every_stage_and_leaves_nothing_behind(tmp_path: Path) -> None:
    shards, work = tmp_path / "shards", tmp_path / "work"
    work.mkdir()
    market_shard(shards / "a.tar", 30)
    tiny_checkpoint(tmp_path / "m.pth", **SIZES)
    words = ["--shards", str(shards), "--checkpoint", str(tmp_path / "m.pth"), "--device", "cpu", "--precision", "fp32"]
    words += ["--seconds", "0.01", "--workers", "0", "--folder", str(work)]
    done = CliRunner().invoke(command, [*words, "--images", "7200", "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    rates = found["rates"]
    assert list(rates) == ["reading", "decoding, one process", "image tower", "text tower", "head and maps", "writing",
                           "model", "whole job"]  # fmt: skip
    assert min(rates.values()) > 0 and found["images_read"] == 30
    best = max(found["tried"], key=lambda one: one["images_per_second"])
    assert found["batch_size"] == best["batch_size"]
    assert [one["batch_size"] for one in found["tried"]] == [2**n for n in range(len(found["tried"]))]
    assert found["estimate"]["worker_hours"] == pytest.approx(2 / rates["whole job"])
    # features, three 16x8 maps and what HDF5 and Parquet add, times the images
    config_bytes = 4 * (64 + 32 + 3 * 128)
    assert 7200 * config_bytes < found["estimate"]["output_bytes"] < 7200 * 100 * config_bytes
    assert not list(work.iterdir())


def test_a_notebook_gets_a_typed_report(tmp_path: Path) -> None:
    market_shard(tmp_path / "a.tar", 8)
    tiny_checkpoint(tmp_path / "m.pth", **SIZES)
    options = {"shards": str(tmp_path / "a.tar"), "checkpoint": tmp_path / "m.pth", "output": tmp_path}
    mining = build_config(None, {**options, "device": "cpu", "precision": "fp32", "workers": 0})
    report = bench(BenchConfig(mining=mining, limit=5, seconds=0.01, images=100))
    assert (report.device, report.precision, report.images_read) == ("cpu", "fp32", 5)
    assert report.maps == ModelConfig.default_maps and mining.maps == ()
    assert report.batch_size in {one.batch_size for one in report.tried} and report.estimate.images == 100
    assert report.estimate.worker_hours == pytest.approx(100 / report.rates.whole_job / 3600)
    said = describe(report)
    for name, rate in report.rates.by_name().items():
        assert f"  {name:22s}{rate:12,.1f}" in said
    assert "promptsg submit --array-tasks 1 --time 0:10:00 --set" in said


def submit_words(said: str) -> list[str]:
    """The words after `promptsg submit`, of the lines at the end as a shell reads them."""
    shown = said[said.index("promptsg submit") :].removeprefix("promptsg submit")
    show = ["bash", "-c", f"printf '%s\\0' {shown}"]
    return subprocess.run(show, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def test_the_last_lines_are_a_command_that_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the tars that a shell made of a glob, a name with a space and a quote, and all that was given."""
    folder = tmp_path / "it's shards"
    for number in range(3):
        market_shard(folder / f"s-{number}.tar", 4, first=4 * number)
    tiny_checkpoint(tmp_path / "m.pth", **SIZES)
    monkeypatch.chdir(tmp_path)
    words = ["--shards", *sorted(f"it's shards/{path.name}" for path in folder.iterdir()), "--checkpoint", "m.pth"]
    words += ["--maps", "mim_attention", "--maps", "gradcam/mim", "--prompt", "A [red] X: person, yes"]
    words += [
        "--device",
        "cpu",
        "--precision",
        "auto",
        "--image-size",
        "64x32",
        "--workers",
        "0",
        "--neck-feat",
        "after",
    ]
    given = ["--seconds", "0.01", "--limit", "8"]
    said = CliRunner().invoke(main, ["bench", *words, *given], catch_exceptions=False).stdout
    assert re.search(
        r"^about 12 images take about 1 minute of one CPU worker, and about 1 MB of output", said, re.MULTILINE
    )
    typed = submit_words(said)
    assert "shards=it's shards/*.tar" in typed and max(map(len, said.splitlines())) <= 120
    done = CliRunner().invoke(main, ["submit", *typed, "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0 and "--array-index" in done.stdout
    config = build_config(None, {}, [value for flag, value in pairwise(typed) if flag == "--set"])
    assert [Path(url).name for url in (shard.url for shard in expand_shards(config.shards))] == [
        f"s-{number}.tar" for number in range(3)
    ]
    assert config.maps == ("mim_attention", "gradcam/mim") and config.image_size == (64, 32)
    assert list(config.prompts.values()) == ["A [red] X: person, yes"] and config.neck_feat == "after"
    assert config.batch_size in (2**n for n in range(9)) and config.precision == "auto"
    assert config.output == tmp_path / "RUN" and config.checkpoint == tmp_path / "m.pth"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_the_peak_of_a_call_is_its_own() -> None:
    use = peak_memory(lambda: torch.ones(1 << 26).sum(), torch.device("cpu"))  # 256 MiB, freed on the way out
    again = peak_memory(lambda: None, torch.device("cpu"))
    assert use is not None and again is not None
    assert 0.9 * (1 << 28) < use.peak - use.before < 1.5 * (1 << 28)
    assert again.peak - again.before < 1 << 26


def test_shards_without_images_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "empty.tar", [])
    with pytest.raises(UserError, match="the 1 shard holds no image"):
        read_images(expand_shards([str(tmp_path / "empty.tar")]), 10)
    write_tar(tmp_path / "bad.tar", sample_members("0001_c1s1_000001_00", b"no image"))
    tiny_checkpoint(tmp_path / "m.pth", **SIZES)
    words = ["--shards", str(tmp_path / "bad.tar"), "--checkpoint", str(tmp_path / "m.pth"), "--device", "cpu"]
    with pytest.raises(UserError, match="none of the first 1 image decodes"):
        CliRunner().invoke(command, [*words, "--folder", str(tmp_path)], catch_exceptions=False)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole passes over large batches take long."""
    monkeypatch.setattr("jobs.benchmark.model_speed.LARGEST_BATCH", 2)


@pytest.mark.usefixtures("small_batches")
def test_whole_passes_of_a_model_with_cameras_are_measured(tmp_path: Path) -> None:
    market_shard(tmp_path / "a.tar", 4)
    torch.save(tiny_clipreid(cameras=6), tmp_path / "m.pth")
    assert measured(tmp_path, maps=("chefer", "rollout", "legrad"), **SIZES) == ("chefer", "rollout", "legrad")
    with pytest.raises(UserError, match="--camera is '6': for this model give a row from 0 to 5"):
        measured(tmp_path, maps=("chefer",), camera="6", **SIZES)
    assert measured(tmp_path, maps=("chefer",), camera="2", head="cls", **SIZES) == ("chefer",)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("maps", [("hirescam/vit_norm", "chefer"), ("cross_attention:caption",)])
def test_captions_are_made_where_they_are_read(tmp_path: Path, maps: tuple[str, ...]) -> None:
    write_tar(tmp_path / "a.tar", sample_members("0001_c1s1_000001_00", textured_image(1), caption="a red coat"))
    torch.save({"model": tiny_irra(classes=0)}, tmp_path / "m.pth")
    assert measured(tmp_path, maps=maps, target="text", image_size=(96, 32)) == maps


def measured(folder: Path, **options: object) -> tuple[str, ...]:
    """The maps of a measurement whose parts all came to their end."""
    options |= {"shards": str(folder / "a.tar"), "checkpoint": folder / "m.pth", "output": folder, "device": "cpu",
                "precision": "fp32", "workers": 0}  # fmt: skip
    report = bench(BenchConfig(mining=build_config(None, options), limit=2, seconds=0.01))
    assert min(report.rates.by_name().values()) > 0
    return report.maps


@dataclass
class Sweep:
    """In the place of measuring: a device whose memory suffices for `most` images, and whose speed never grows."""

    device: torch.device
    most: int = 10**6
    error: type[RuntimeError] = torch.OutOfMemoryError

    def measured(self, monkeypatch: pytest.MonkeyPatch) -> BatchSweep:
        def run(_loaded: object, images: torch.Tensor, _config: object) -> None:
            if len(images) > self.most:
                raise self.error("CUDA out of memory")

        monkeypatch.setattr(model_speed, "run_model", run)
        monkeypatch.setattr(model_speed, "peak_memory", lambda work, _device: work())
        monkeypatch.setattr(model_speed, "rate_of_model", lambda *_: 100.0)
        pixels = torch.zeros(2, 3, 4, 2, dtype=torch.uint8)
        return model_speed.try_batch_sizes(self, pixels, None, 0.01)  # type: ignore[arg-type]


GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


def test_on_a_gpu_batches_are_measured_up_to_1024_also_without_a_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(GPU).measured(monkeypatch)
    assert [one.batch_size for one in sweep.tried] == [2**n for n in range(11)] and sweep.stopped is None
    assert [one.batch_size for one in Sweep(CPU).measured(monkeypatch).tried] == [1, 2, 4]  # two sizes gained nothing


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])  # as torch, and as cuBLAS raise it
def test_the_sweep_ends_with_a_word_where_the_memory_does(
    error: type[RuntimeError], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(GPU, most=40, error=error).measured(monkeypatch)
    assert [one.batch_size for one in sweep.tried] == [1, 2, 4, 8, 16, 32]
    assert sweep.stopped == "the memory of cuda:0 does not suffice for batches of 64: no larger ones were tried"
    with pytest.raises(UserError, match="cuda:0 has not the memory for one image"):
        Sweep(GPU, most=0, error=error).measured(monkeypatch)


def test_the_model_alone_is_timed_in_one_warm_pass_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass is made once, for these batches, and its first call, which may capture a graph, is not timed."""
    tiny_checkpoint(tmp_path / "m.pth", **SIZES)
    config = MineConfig(shards=("s.tar",), checkpoint=tmp_path / "m.pth", output=tmp_path / "RUN", device="cpu",
                        maps=("mim_attention",), precision="fp32")  # fmt: skip
    loaded = load(config, (), ())
    made, seen, timed = [], [], []

    def choose(model: AnyModel, config: MineConfig) -> Pass:
        made.append(config.batch_size)
        plain = plain_pass(model, config)

        def run(images: torch.Tensor, *rest: object) -> Extraction:
            seen.append(len(images))
            return plain(images, *rest)  # type: ignore[arg-type]

        return run  # type: ignore[return-value]

    def seconds(work: Callable[[], Results], *_: object) -> float:
        timed.append(len(seen))
        assert work().maps["mim_attention"].shape[0] == 3
        return 0.5

    monkeypatch.setattr("jobs.mining.passes.choice.choose_pass", choose)
    monkeypatch.setattr(model_speed, "median_seconds", seconds)
    images = torch.zeros(3, 3, 64, 32, dtype=torch.uint8)
    assert model_speed.rate_of_model(loaded, images, config, 0.01) == 6.0
    assert (made, timed, seen) == ([3], [1], [3, 3])


def test_what_ends_a_sweep_and_is_not_the_memory_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(RuntimeError):
        def __init__(self, _said: str) -> None:
            super().__init__("an illegal memory access")

    with pytest.raises(Odd):
        Sweep(GPU, most=2, error=Odd).measured(monkeypatch)


def test_the_report_says_why_the_sweep_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    market_shard(tmp_path / "a.tar", 4)
    tiny_checkpoint(tmp_path / "m.pth", **SIZES)
    monkeypatch.setattr(model_speed, "_fits", lambda tried, _on_gpu: len(tried) < 2)
    words = ["--shards", str(tmp_path / "a.tar"), "--checkpoint", str(tmp_path / "m.pth"), "--device", "cpu"]
    words += ["--precision", "fp32", "--seconds", "0.01", "--workers", "0"]
    said = CliRunner().invoke(command, words, catch_exceptions=False).stdout
    assert "  the memory of cpu does not suffice for batches of 4: no larger ones were tried\n" in said
