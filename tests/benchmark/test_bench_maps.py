"""The benchmark of all maps on tiny models: that it runs, and that its gates hold and can fail. Values, not times."""

from __future__ import annotations

import importlib
import json
from types import ModuleType

import numpy as np
import pytest
import torch

from promptsg_core.families.promptsg.model import PromptSG
from tests.bench import arms
from tests.support.tiny import tiny_state


@pytest.fixture(scope="module")
def bench_maps() -> ModuleType:
    """The benchmark. Its libraries take seconds to import: only the process that runs these tests should spend them."""
    pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam (pip install '.[bench]')")
    pytest.importorskip("captum", reason="needs captum (pip install '.[bench]')")
    return importlib.import_module("tests.bench.bench_maps")


@pytest.fixture
def model() -> PromptSG:
    config, state = tiny_state()
    model = PromptSG(config)
    model.load_state_dict({key: state[key] for key in model.state_dict()})
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_arms_compute_the_same(bench_maps: ModuleType, model: PromptSG, precision: str) -> None:
    found = bench_maps.Bench(model, 3, precision, "cpu").differences()
    assert len(found) == 2 * 4 + 2 * 3 + 3
    if precision == "fp32":
        arms.require_equal(found, bench_maps.TOLERANCES["fp32"])
        assert max(found.values()) < 1e-4
    else:  # so small and wild a model amplifies the rounding; on one graph the maps agree all the same
        assert max(value for name, value in found.items() if name.startswith("grad-cam:")) < 0.02
        assert max(found.values()) < 0.05


def test_a_difference_is_refused_by_name(bench_maps: ModuleType, model: PromptSG) -> None:
    bench = bench_maps.Bench(model, 3, "fp32", "cpu")
    with torch.no_grad():
        bench.stock.post_blocks[1].mlp[0].weight.mul_(1.01)
    with pytest.raises(SystemExit, match="reference-stock: logits differs by"):
        arms.require_equal(bench.differences(), 1e-4)


def test_the_librarys_own_call_gives_our_maps_scaled_to_one(bench_maps: ModuleType, model: PromptSG) -> None:
    bench = bench_maps.Bench(model, 3, "fp32", "cpu")
    public = bench_maps.pytorch_grad_cam_public(bench.public, bench.images, model.grid)
    ours = bench.ours(bench_maps.GRADCAM).maps
    assert len(public) == 6
    for name, maps in ours.items():
        flat = maps.flatten(1).numpy()
        low, high = flat.min(1, keepdims=True), flat.max(1, keepdims=True)
        np.testing.assert_allclose(public[name].reshape(3, -1), (flat - low) / (high - low + 1e-7), atol=2e-4)


def test_libraries_leave_no_hook_and_no_gradient_on_our_model(bench_maps: ModuleType, model: PromptSG) -> None:
    bench = bench_maps.Bench(model, 2, "fp32", "cpu")
    for arm in bench.arms().values():
        arm()
    assert not any(module._forward_hooks for module in bench.model.modules())
    assert all(p.grad is None and not p.requires_grad for p in bench.model.parameters())


def test_run_reports_the_paired_ratios(bench_maps: ModuleType, model: PromptSG) -> None:
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
