"""The model against the slow literal transcription in reference_model.py, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from promptsg_core.errors import ModelError
from promptsg_core.families.map_names import LAYER_NAMES, NATIVE_MAP_NAMES
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.mim import PostBlock
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.families.promptsg.names import to_family_h
from promptsg_core.prompts import PROMPTS
from promptsg_core.towers.transformer import add_mlp
from tests.support import reference_model
from tests.support.small_models import KINDS, small_model
from tests.support.tiny import TINY, random_images, tiny_state


def build(config: ModelConfig, state: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> PromptSG:
    model = PromptSG(config)
    model.load_state_dict(to_family_h(state, "H"), strict=True)
    return model.to(dtype).requires_grad_(False).eval()


def reference_of(
    config: ModelConfig, state: dict[str, Tensor], image: Tensor, whole: bool = False
) -> reference_model.Reference:
    wide = {key: t.double() if t.is_floating_point() else t for key, t in state.items()}
    normalised = (image.double() / 255 - 0.5) / 0.5
    return reference_model.run(
        wide,
        normalised,
        layers=config.vision_layers,
        heads=config.vision_heads,
        stride=config.stride,
        text_layers=config.text_layers,
        mim_layers=config.mim_layers,
        mode=config.prompt_mode,
        reweight=config.reweight,
        whole=whole,
    )


VARIANTS = {
    "composed": {},
    "simplified": {"prompt_mode": "simplified"},
    "mul": {"reweight": "mul"},
    "residual": {"reweight": "residual"},
    "overlapping patches": {"stride": 3},
    "one post block": {"mim_layers": 1},
    "three post blocks": {"mim_layers": 3},
    "plain batch norm": {"inversion_affine": False},
    "qkv with bias": {"mim_qkv_bias": True},
    "square grid": {"image_size": (20, 20)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_output_equals_the_literal_transcription(variant: str) -> None:
    config, state = tiny_state(**VARIANTS[variant])
    model = build(config, state)
    images = random_images(config, 3)
    out = model.forward_with_attention(images)
    after = PromptSG.forward(_with_neck(model, "after"), images)
    before = PromptSG.forward(_with_neck(model, "before"), images)
    for row, image in enumerate(images):
        wanted = reference_of(config, state, image).values
        found = {
            "mim_attention": out["mim_attention"][row, 0],
            "text_features": out["text_features"][row],
            "patch_tokens": out["patch_tokens"][row],
            "v_final": out["v_final"][row],
            "logits": out["logits"][0][row],
            "logits_proj": out["logits"][1][row],
            "features_before": before[row],
            "features_after": after[row],
        }
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value.detach(), rtol=1e-9, atol=1e-9, msg=f"{variant}: {name}")


def _with_neck(model: PromptSG, neck_feat: str) -> PromptSG:
    model.config = replace(model.config, neck_feat=neck_feat)
    return model


def test_cls_states_are_those_of_every_block_and_end_in_v_final() -> None:
    config, state = tiny_state(mim_layers=3)
    out = build(config, state).forward_with_attention(random_images(config, 2))
    assert [tuple(s.shape) for s in out["cls_states"]] == [(2, config.embed_dim)] * 3
    torch.testing.assert_close(out["cls_states"][-1], out["v_final"])
    assert not torch.allclose(out["cls_states"][0], out["cls_states"][1])


@pytest.mark.parametrize("mode", PROMPTS)
def test_eight_tokens_give_the_feature_of_seventy_seven(mode: str) -> None:
    config, state = tiny_state(prompt_mode=mode)
    model = build(config, state, torch.float32)
    v = torch.randn(5, config.embed_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        short = model.encode_text(v).expand(5, -1)
        words = model.inversion(v) if mode == "composed" else None
        prompt = PROMPTS[mode]
        padded = replace(prompt, tokens=prompt.tokens + (0,) * (77 - len(prompt.tokens)))
        long = model.text_encoder(model.prompt_composer.embed(padded, words), len(prompt.tokens) - 1)
    torch.testing.assert_close(short, long.expand(5, -1), rtol=1e-5, atol=1e-5)


def test_the_text_cache_follows_edited_and_moved_weights() -> None:
    config, state = tiny_state()
    model = build(config, state)
    v = torch.randn(2, config.embed_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = model.encode_text(v)
        model.text_encoder.transformer.blocks[0].attn.in_proj_weight.mul_(1.5)
        edited = model.encode_text(v)
    with torch.enable_grad():
        live = model.encode_text(v)  # with gradients on nothing is cached
    assert not torch.allclose(before, edited)
    torch.testing.assert_close(edited, live.detach())
    assert model.float().encode_text(v.float()).dtype == torch.float32


def test_cls_only_equals_row_0_of_the_full_block() -> None:
    torch.manual_seed(0)
    for bias in (False, True):
        block = PostBlock(32, 8, bias).eval()
        x = torch.randn(3, 9, 32)
        with torch.no_grad():
            torch.testing.assert_close(block.cls_only(x, block.norm1(x)), block(x)[:, 0], rtol=1e-5, atol=1e-5)


def test_the_mlp_is_quick_gelu_between_two_layers() -> None:
    torch.manual_seed(0)
    norm, first, second = nn.LayerNorm(6).double(), nn.Linear(6, 9).double(), nn.Linear(9, 6).double()
    for parameter in (norm.weight, norm.bias):
        nn.init.normal_(parameter)
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    inner = first(norm(x))
    found = add_mlp(x, norm, first, second)
    torch.testing.assert_close(found, x + second(inner * torch.sigmoid(1.702 * inner)), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(add_mlp(x, norm, first, second), found)
    assert torch.autograd.gradcheck(lambda x: add_mlp(x, norm, first, second), x)
    assert torch.autograd.gradgradcheck(lambda x: add_mlp(x, norm, first, second), x)


def test_attention_sums_to_one_on_the_grid() -> None:
    config, state = tiny_state()
    model = build(config, state)
    images = random_images(config, 2)
    attention = model.get_attention_map(images)
    assert attention.shape == (2, 8, 4)
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(model.get_attention_map(images, reshape_to_image=False), attention.flatten(1))


def test_weights_are_float32_where_products_are_not() -> None:
    config, state = tiny_state()
    model = build(config, state, torch.float32)
    text, patches = torch.randn(2, config.embed_dim), torch.randn(2, 32, config.embed_dim)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        trained = model.mim.attend(text, patches)
    model.mim.to(torch.bfloat16)
    with torch.no_grad():
        mined = model.mim.attend(text.bfloat16(), patches.bfloat16())
    for weights in (trained, mined):
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, config.mim_heads))  # rounded, they would miss it


def test_images_of_another_size_are_refused_with_both_sizes() -> None:
    config, state = tiny_state()
    with pytest.raises(ValueError, match=r"\(1, 3, 40, 16\).*\(B, 3, 32, 16\)"):
        build(config, state, torch.float32)(torch.zeros(1, 3, 40, 16))


def test_an_unknown_tap_is_refused_with_the_valid_ones() -> None:
    config, state = tiny_state()
    model = build(config, state)
    with pytest.raises(ValueError, match="no tap called neck; there are mim, vit_last"):
        model.head(model.encode(random_images(config, 1)), taps=["neck"])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_of_blocks_is_checked_when_it_is_asked(kind: str) -> None:
    model, images = small_model(kind), torch.empty(0)  # no block could run with these
    wrong: list[tuple[dict[str, Any], str]] = [({"head": "other"}, "the head 'other' is none of this model's")]
    wrong += [] if model.takes_captions else [({"captions": ["a man"]}, "read no captions")]
    wrong += [] if model.camera_rows else [({"cameras": 0}, "uses no camera embedding")]
    for given, reason in wrong:
        with pytest.raises(ModelError, match=reason):
            model.trace(images, **given)
        with pytest.raises(ModelError, match=reason):
            model.each_block(images, None, **given)


def test_the_names_for_requests_are_the_model_s_own() -> None:
    model = PromptSG(ModelConfig(**TINY))
    assert set(model.layers) <= set(LAYER_NAMES) and set(model.native_maps) <= set(NATIVE_MAP_NAMES)
