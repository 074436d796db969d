"""The benchmarks on tiny models: that they run, and that their gates hold and can fail. Values, not times."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cam.extract import extract_maps
from jobs.benchmark.bench import clock, command, estimate
from jobs.benchmark.job import pack
from jobs.benchmark.stages import Halfway, read_some, repeated
from jobs.errors import UserError
from jobs.shards.urls import expand_shards
from promptsg_core.model import PromptSG
from tests.support.shard_files import market_shard, sample_members, write_tar
from tests.support.tiny import tiny_checkpoint, tiny_state

pytest.importorskip("pytorch_grad_cam")
pytest.importorskip("captum")

from tests.bench import bench_maps, bench_memory
from tests.bench.cam_libraries import pytorch_grad_cam_public

SIZES = {"image_size": (64, 32)}


@pytest.fixture
def model() -> PromptSG:
    config, state = tiny_state()
    model = PromptSG(config)
    model.load_state_dict({key: state[key] for key in model.state_dict()})
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_arms_compute_the_same(model: PromptSG, precision: str) -> None:
    found = bench_maps.Bench(model, 3, precision, "cpu").differences()
    assert len(found) == 2 * 4 + 2 * 3 + 3
    if precision == "fp32":
        bench_maps.require_equal(found, bench_maps.TOLERANCES["fp32"])
        assert max(found.values()) < 1e-4
    else:  # so small and wild a model amplifies the rounding; on one graph the maps agree all the same
        assert max(value for name, value in found.items() if name.startswith("grad-cam:")) < 0.02
        assert max(found.values()) < 0.05


def test_a_difference_is_refused_by_name(model: PromptSG) -> None:
    bench = bench_maps.Bench(model, 3, "fp32", "cpu")
    with torch.no_grad():
        bench.stock.post_blocks[1].mlp[0].weight.mul_(1.01)
    with pytest.raises(SystemExit, match="reference-stock: logits differs by"):
        bench_maps.require_equal(bench.differences(), 1e-4)
    with pytest.raises(SystemExit, match="x differs by nan"):
        bench_maps.require_equal({"x": float("nan")}, 1.0)


def test_the_librarys_own_call_gives_our_maps_scaled_to_one(model: PromptSG) -> None:
    bench = bench_maps.Bench(model, 3, "fp32", "cpu")
    public = pytorch_grad_cam_public(bench.public, bench.images, model.grid)
    ours = bench.ours(bench_maps.GRADCAM).maps
    assert len(public) == 6
    for name, maps in ours.items():
        flat = maps.flatten(1).numpy()
        low, high = flat.min(1, keepdims=True), flat.max(1, keepdims=True)
        np.testing.assert_allclose(public[name].reshape(3, -1), (flat - low) / (high - low + 1e-7), atol=2e-4)


def test_libraries_leave_no_hook_and_no_gradient_on_our_model(model: PromptSG) -> None:
    bench = bench_maps.Bench(model, 2, "fp32", "cpu")
    for arm in bench.arms().values():
        arm()
    assert not any(module._forward_hooks for module in bench.model.modules())
    assert all(p.grad is None and not p.requires_grad for p in bench.model.parameters())


def test_run_reports_the_paired_ratios(model: PromptSG) -> None:
    asked = bench_maps.parse(["--batch", "2", "--precision", "fp32", "--repetitions", "4", "--warm-up", "1"])
    result = json.loads(json.dumps(bench_maps.run(asked, model)))
    assert len(result["samples"]) == 17
    ours, floor = (np.array(result["samples"][name]) for name in ("ours", "floor"))
    assert result["ratios"]["ours / floor"]["median"] == pytest.approx(np.median(floor / ours))
    assert result["ratios"]["ours / floor"]["target"] == 0.88
    assert result["images_per_second"]["ours"] == pytest.approx(2 / np.median(ours))
    assert "grad-cam-public" in bench_maps.describe(result)
    with pytest.raises(SystemExit, match="no arm is called flor"):
        bench_maps.run(bench_maps.parse(["--arms", "flor"]), model)


def test_the_order_of_the_arms_rotates() -> None:
    order: list[str] = []
    arms = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds, processor = bench_maps.measure(arms, 3, 1, torch.device("cpu"))
    assert "".join(order) == "cababcbcacab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(0 <= value < 1 for values in processor.values() for value in values)
    spread = bench_maps.Spread.of([4.0, 1.0, 3.0])
    assert (spread.low, spread.median, spread.high) == (1.0, 3.0, 4.0)


def test_timing_the_head_alone_gives_the_whole_models_maps(model: PromptSG) -> None:
    model = model.requires_grad_(False).eval()
    images = torch.randint(0, 256, (3, 3, *model.config.image_size), dtype=torch.uint8)
    names = ["mim_attention", "gradcam/mim", "gradcam++/vit_last"]
    expected = extract_maps(model, images, names).maps
    for name, maps in extract_maps(Halfway(model, images), images, names).maps.items():
        assert maps.equal(expected[name])
    assert repeated(images, 5).equal(images[[0, 1, 2, 0, 1]])


def test_the_number_of_images_is_counted_or_told_by_size(tmp_path: Path) -> None:
    for number in range(3):
        market_shard(tmp_path / f"s-{number}.tar", 40, first=40 * number)
    shards = expand_shards([str(tmp_path)])
    assert (whole := read_some(shards, 1000)).total == 120 and len(whole.images) == 120
    part = read_some(shards, 60)
    assert len(part.images) == 60 and 110 <= part.total <= 150
    pack(tmp_path / "again.tar", part, 61)
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
    words += ["--precision", "fp32", "--seconds", "0.01", "--workers", "0", "--json"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert json.loads(done.stdout)["rates"]["model"] == 15.0
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
    assert "promptsg submit --array-tasks 1" in CliRunner().invoke(command, words, catch_exceptions=False).stdout


def test_shards_without_images_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "empty.tar", [])
    with pytest.raises(UserError, match="hold no image"):
        read_some(expand_shards([str(tmp_path / "empty.tar")]), 10)
    write_tar(tmp_path / "bad.tar", sample_members("0001_c1s1_000001_00", b"no image"))
    tiny_checkpoint(tmp_path / "m.pth", **SIZES)
    words = ["--shards", str(tmp_path / "bad.tar"), "--checkpoint", str(tmp_path / "m.pth"), "--device", "cpu"]
    with pytest.raises(UserError, match="none of the first 1 images decodes"):
        CliRunner().invoke(command, [*words, "--folder", str(tmp_path)], catch_exceptions=False)


def test_a_run_is_made_as_long_as_wanted_of_links(tmp_path: Path) -> None:
    market_shard(tmp_path / "a-0.tar", 3)
    folder = tmp_path / "long"
    folder.mkdir()
    assert bench_memory.link_shards([str(tmp_path / "a-*.tar")], 8, folder) == 9
    assert sorted(path.resolve() for path in folder.iterdir()) == [(tmp_path / "a-0.tar").resolve()] * 3
    write_tar(tmp_path / "b-0.tar", [])
    with pytest.raises(SystemExit, match="no images in these shards"):
        bench_memory.link_shards([str(tmp_path / "b-0.tar")], 8, folder)
