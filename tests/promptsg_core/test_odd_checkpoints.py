"""Checkpoints of odd tensors, and models in odd contexts: each works, or is one line that names the file."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cam import extract_maps
from promptsg_core import ModelError, load_model
from promptsg_core.precision import resolve_device
from promptsg_core.prompts import PROMPTS
from tests.support.tiny import random_images, tiny_state

EMBEDDING = "prompt_composer.token_embedding.weight"
SIZE = {"image_size": (32, 16), "stride": 4}
# What may be done to one tensor of a file.
DAMAGE: dict[str, Callable[[Tensor], Tensor]] = {
    "a number": lambda _: torch.tensor(1.0),
    "nothing": lambda t: t.new_zeros(0),
    "no rows": lambda t: t.new_zeros((0, *t.shape[1:])),
    "one more dimension": lambda t: t.unsqueeze(0),
    "half of its rows": lambda t: t[: len(t) // 2] if t.ndim else t.reshape(1, 1),
    "one more row": lambda t: torch.cat([t, t[:1]]) if t.ndim else t.reshape(1),
    "whole numbers": lambda t: t.to(torch.int8) if t.is_floating_point() else t.reshape(1, 1, 1),
    "other bytes": lambda t: torch.full(t.shape, float("inf")) if t.is_floating_point() else t.reshape(1, 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_tensor_that_is_damaged_is_one_line(tmp_path: Path, damage: str) -> None:
    state, path = tiny_state()[1], tmp_path / "m.safetensors"
    kept = sorted(set(PROMPTS["composed"].tokens))  # a small file
    state[EMBEDDING] = state[EMBEDDING][kept]
    unused = ("tokenized", "num_batches_tracked", "cross_attn.v_proj", "cross_attn.out_proj")
    sizes = ("text_encoder.positional_embedding", "token_embedding") if damage.endswith((" row", "rows")) else ()
    skipped = (*unused, *sizes, "resblocks.1.", "resblocks.2.")  # later blocks are as the first
    keys = [key for key in state if not any(part in key for part in skipped)]
    for key in keys[[*DAMAGE].index(damage) :: len(DAMAGE)]:  # each has one of the kinds of damage
        damaged = {**state, key: DAMAGE[damage](state[key]).contiguous()}
        save_file(damaged, path, {"promptsg.token_rows": json.dumps(kept)})
        with pytest.raises(ModelError) as refused:
            load_model(path, device="cpu", precision="fp32", **SIZE)
        assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value), key


def test_an_embedding_without_the_tokens_of_the_prompt_is_one_line(tmp_path: Path) -> None:
    state, path = tiny_state()[1], tmp_path / "m.pth"
    for key, rows, message in [
        (EMBEDDING, 1000, "has token 49407, but .* embedding has 1000 rows"),
        ("text_encoder.positional_embedding", 7, "has 8 tokens, but this checkpoint's text tower has 7 positions"),
    ]:
        torch.save({**state, key: state[key][:rows].clone()}, path)
        with pytest.raises(ModelError, match=rf"m\.pth: the prompt 'A photo of a X person' {message}"):
            load_model(path, device="cpu", precision="fp32", **SIZE)


@pytest.mark.parametrize(
    "config",
    ["{", "[]", "3", '{"mim_heads": "8"}', '{"image_size": [32, "16"]}', '{"image_size": 32}', '{"std": [0.5, 0.5]}',
     '{"stride": 0}', '{"mim_heads": 0}', '{"token_rows": [1.5]}', '{"nothing": 1}', '{"reweight": []}'],
)  # fmt: skip
def test_metadata_of_another_kind_is_one_line(tmp_path: Path, config: str) -> None:
    state, path = tiny_state()[1], tmp_path / "m.safetensors"
    save_file(state, path, {"promptsg.config": config})
    with pytest.raises(ModelError) as refused:
        load_model(path, device="cpu", precision="fp32")
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


def test_metadata_of_our_own_is_read_whatever_the_file_is_called(tmp_path: Path) -> None:
    config, state = tiny_state(mim_qkv_bias=True)
    save_file(state, tmp_path / "m.pth", {"promptsg.config": json.dumps(config.to_dict())})
    assert load_model(tmp_path / "m.pth", device="cpu", precision="fp32").config == config


def loaded(tmp_path: Path) -> Any:
    config, state = tiny_state()
    torch.save(state, tmp_path / "m.pth")
    return load_model(tmp_path / "m.pth", device="cpu", precision="fp32", vision_heads=1, **SIZE), random_images(
        config, 2
    )


MAPS = ("mim_attention", "gradcam/mim", "gradcam++/mim", "hirescam/vit_proj", "rollout", "chefer")


def test_a_model_that_was_loaded_in_inference_mode_gives_the_same_maps(tmp_path: Path) -> None:
    plain, images = loaded(tmp_path)
    wanted = extract_maps(plain, images, maps=MAPS)
    with torch.inference_mode():
        model, _ = loaded(tmp_path)
        inside = extract_maps(model, images, maps=MAPS)
    with torch.no_grad():
        without = extract_maps(model, images, maps=MAPS)
    for name in MAPS:
        torch.testing.assert_close(inside.maps[name], wanted.maps[name])
        torch.testing.assert_close(without.maps[name], wanted.maps[name])


def test_maps_under_autocast_are_near_those_without(tmp_path: Path) -> None:
    model, images = loaded(tmp_path)
    wanted = extract_maps(model, images, maps=MAPS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = extract_maps(model, images, maps=MAPS, target=wanted.predicted)
        features, attention = model(images), model.get_attention_map(images)
    assert torch.isfinite(features).all()
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(2))
    for name in MAPS:
        assert found.maps[name].dtype == torch.float32, name
        one, other = found.maps[name].flatten(), wanted.maps[name].flatten()
        assert torch.isfinite(one).all() and torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.9, name


@pytest.mark.parametrize("name", ["mps", "mps:0", "meta", "xpu"])
def test_other_devices_are_one_line(name: str) -> None:
    with pytest.raises(ModelError, match=rf"device '{name}' is not supported: .* cpu and cuda only"):
        resolve_device(name)


def test_that_there_is_another_state_dict_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, state = tiny_state()
    path = tmp_path / "m.pth"
    shifted = {key: tensor + 0.5 if key == "bottleneck.bias" else tensor for key, tensor in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": shifted}, path)
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", **SIZE}
    with caplog.at_level(logging.WARNING, "promptsg_core"):
        plain = load_model(path, **options)
    assert caplog.messages == [f"{path}: took state_dict; it also has state_dict_ema, which --weights-key takes"]
    caplog.clear()
    average = load_model(path, weights_key="state_dict_ema", **options)
    assert caplog.messages == []
    torch.testing.assert_close(average.bottleneck.bias, plain.bottleneck.bias + 0.5)
