"""Recorded results of an independent implementation, in float64, on real images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cam import extract_maps
from cam.names import column_of
from cam.targets import similarity_target
from promptsg_core import load_model
from tests.cam.test_extract import ALL

MODES = ["composed", "simplified"]


def recorded(golden: Path, mode: str) -> tuple[Path, dict[str, NDArray], torch.Tensor]:
    images = torch.from_numpy(np.load(golden / "preprocessed.npz")["images"])
    name = f"promptsg_h_{mode}_s16"
    return golden / f"{name}.pth", dict(np.load(golden / f"{name}.npz")), images


def worst(found: torch.Tensor, wanted: NDArray) -> float:
    """The largest difference over the rows, each relative to its own largest recorded value."""
    rows = np.abs(found.double().numpy() - wanted).reshape(len(wanted), -1).max(1)
    return float((rows / np.abs(wanted).reshape(len(wanted), -1).max(1)).max())


def correlations(found: torch.Tensor, wanted: NDArray) -> list[float]:
    pairs = zip(found.double().flatten(1).numpy(), wanted.reshape(len(wanted), -1), strict=True)
    return [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs if a.any() and b.any()]


@pytest.mark.parametrize("mode", MODES)
def test_outputs_in_float32(golden: Path, mode: str) -> None:
    path, wanted, images = recorded(golden, mode)
    model = load_model(path, device="cpu", precision="fp32", prompt_mode=mode)
    out = model.forward_with_attention(images)
    after = load_model(path, device="cpu", precision="fp32", prompt_mode=mode, neck_feat="after")
    found = {
        "mim_attention": out["mim_attention"][:, 0].unflatten(1, (16, 8)),
        "logits": out["logits"][0],
        "logits_proj": out["logits"][1],
        "text_features": out["text_features"],
        "patch_tokens": out["patch_tokens"],
        "v_final": out["v_final"],
        "features_before": out["features"],
        "features_after": after(images),
    }
    for name, tensor in found.items():
        assert worst(tensor, wanted[name]) < 1e-4, name


def test_fp16_is_closer_to_float32_than_bf16(golden: Path) -> None:
    """Why `auto` is fp16 on a GPU: the median correlation of `hirescam/vit_proj`, whose terms nearly cancel."""
    path, _, images = recorded(golden, "composed")
    maps = {
        precision: extract_maps(
            load_model(path, device="cpu", precision=precision, prompt_mode="composed"), images, ["hirescam/vit_proj"]
        ).maps["hirescam/vit_proj"]
        for precision in ("fp32", "fp16", "bf16")
    }
    exact = maps["fp32"].numpy()
    fp16, bf16 = (float(np.median(correlations(maps[precision], exact))) for precision in ("fp16", "bf16"))
    assert fp16 > 0.9995 and 1 - fp16 < (1 - bf16) / 5


@pytest.mark.parametrize("mode", MODES)
def test_maps_in_float32(golden: Path, mode: str) -> None:
    path, wanted, images = recorded(golden, mode)
    result = extract_maps(load_model(path, device="cpu", precision="fp32", prompt_mode=mode), images, ALL)
    np.testing.assert_array_equal(result.predicted.numpy(), wanted["predicted"])
    for name in ALL:
        assert worst(result.maps[name], wanted[column_of(name)]) < 1e-3, name


@pytest.mark.parametrize("mode", MODES)
def test_similarity_maps_in_float32(golden: Path, mode: str) -> None:
    """Row i is compared with row 1 (i even) or row 0 (i odd)."""
    path, wanted, images = recorded(golden, mode)
    model = load_model(path, device="cpu", precision="fp32", prompt_mode=mode)
    references = torch.nn.functional.normalize(torch.from_numpy(wanted["features_before"]).float(), dim=1)
    rows = [1 - row % 2 for row in range(len(images))]
    layers = {key.removesuffix("_similarity") for key in wanted if key.endswith("_similarity")}
    names = [name for name in ALL if column_of(name) in layers]
    result = extract_maps(model, images, names, similarity_target(references[rows]))
    assert len(names) >= 8
    for name in names:
        assert worst(result.maps[name], wanted[f"{column_of(name)}_similarity"]) < 1e-3, name


@pytest.mark.parametrize("mode", MODES)
def test_the_papers_form_where_it_is_not_singular(golden: Path, mode: str) -> None:
    path, wanted, images = recorded(golden, mode)
    model = load_model(path, device="cpu", precision="fp32", prompt_mode=mode)
    names = [name for name in ALL if name.startswith("gradcam++")]
    result = extract_maps(model, images, names, gradcam_plus_plus="paper")
    compared = 0
    for name in names:
        r = correlations(result.maps[name], wanted[column_of(name).replace("pp_", "pp_paper_")])
        compared += len(r)
        if r:  # in this form all maps of a layer may be zero
            # One image near a pole of 1 / (2 + sum(A) g) may differ; a wrong formula would spoil most.
            assert np.median(r) > 0.99, name
    assert compared >= 16


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_maps_in_low_precision(golden: Path, mode: str, precision: str) -> None:
    path, _, images = recorded(golden, mode)
    exact = extract_maps(load_model(path, device="cpu", precision="fp32", prompt_mode=mode), images, ALL)
    rough = extract_maps(load_model(path, device="cpu", precision=precision, prompt_mode=mode), images, ALL)
    for name in ALL:
        r = correlations(rough.maps[name], exact.maps[name].numpy())
        assert (min(r) >= 0.995) if name == "mim_attention" else (np.median(r) >= 0.98), (name, r)
