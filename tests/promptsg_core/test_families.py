"""Families that are refused: each by its own name, with its own reason."""

from __future__ import annotations

import pytest

from promptsg_core import CheckpointError
from promptsg_core.families.registry import families, family_of

MIM = ("mim.q_ln.weight", "mim.cross_attn.in_proj_weight")
CLIP_TOWER = ("image_encoder.proj", "image_encoder.conv1.weight")
TRANSREID = ("base.cls_token", "base.blocks.0.attn.qkv.weight")
IRRA = ("base_model.visual.conv1.weight", "base_model.token_embedding.weight")

# Keys that tell a family, and how the refusal begins after `a checkpoint of family `.
REFUSED = {
    "A, B or C of PromptSG": ("cross_guidance.attn.weight",),
    "D of PromptSG": ("mim.cross_norm.weight", *MIM),
    "F or G of PromptSG, with interaction.gamma is not supported: its attention map is exactly uniform": (
        "interaction.gamma", "interaction.cross_attn.in_proj_weight",
    ),
    "F or G of PromptSG, with interaction.map_attn is not supported: its attention map does not lie on patches": (
        "interaction.map_attn.in_proj_weight", "interaction.cross_attn.in_proj_weight",
    ),
    "F or G of PromptSG is not supported: all 77 text tokens ask": (
        "interaction.cross_attn.in_proj_weight", "interaction.cross_norm.weight", "interaction.blocks.0.ln1.weight",
    ),
    "RN50 of PromptSG": ("image_encoder.layer1.0.conv1.weight", "classifier.weight", *MIM),
    "RN50 of CLIP-ReID": ("image_encoder.layer1.0.conv1.weight", "classifier_proj.weight", "prompt_learner.cls_ctx"),
    "CLIPSCGI": ("cff.weight", *MIM),
    "IADT": ("attr_tokenizer.weight", *MIM),
    "TransReID-SSL or PersonViT": ("base.patch_embed.conv.0.weight", *TRANSREID),
    "SOLIDER": ("base.patch_embed.projection.weight", "base.stages.0.blocks.0.norm1.weight"),
    "RN50 of IRRA": ("base_model.visual.layer1.0.conv1.weight", *IRRA),
    "RDE": ("visul_emb_layer.fc.weight", *IRRA),
    "BoT": ("base.conv1.weight", "base.layer1.0.conv1.weight", "bottleneck.weight"),
    "fast-reid": ("backbone.conv1.weight", "heads.bottleneck.0.weight", "heads.weight"),
    "CLIP (OpenAI's": ("visual.conv1.weight", "token_embedding.weight"),
}  # fmt: skip


@pytest.mark.parametrize("start", REFUSED)
def test_a_family_is_refused_by_its_name(start: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        family_of(REFUSED[start])
    message = str(refused.value)
    assert message.startswith(f"a checkpoint of family {start}") and " is not supported: " in message


def test_families_h_and_e_are_told_by_the_projections_of_the_mim() -> None:
    head = (*CLIP_TOWER, "classifier_proj.weight", "prompt_composer.token_embedding.weight", "inversion.fc1.weight")
    assert family_of((*head, "mim.cross_attn.q_proj.weight")).name == "H"
    assert family_of((*head, "mim.cross_attn.in_proj_weight", "mim.post_blocks.0.mlp.3.weight")).name == "E"


def test_clip_reid_is_told_with_and_without_prompts() -> None:
    assert family_of(("prompt_learner.cls_ctx", "classifier_proj.weight", *CLIP_TOWER)).name == "CLIP-ReID"
    assert family_of(("classifier_proj.weight", *CLIP_TOWER)).name == "CLIP-ReID's baseline"


def test_transreid_is_told_with_and_without_jpm() -> None:
    assert family_of(TRANSREID).name == family_of(("b1.0.norm1.weight", *TRANSREID)).name == "TransReID"


def test_irra_is_told_with_and_without_cross_attention() -> None:
    assert family_of(IRRA).name == family_of(("cross_attn.in_proj_weight", *IRRA)).name == "IRRA"


def test_osnet_and_its_variants_are_told_by_their_instance_norms() -> None:
    osnet = ("conv1.conv.weight", "conv2.0.conv1.conv.weight", "fc.0.weight", "classifier.weight")
    assert family_of((*osnet, "conv2.0.conv2a.conv1.weight")).name == "OSNet"
    assert family_of((*osnet, "conv2.0.conv2a.conv1.weight", "conv2.0.IN.weight")).name == "OSNet-IBN"
    assert family_of((*osnet, "conv2.0.conv2.0.layers.0.conv1.weight", "conv2.0.IN.weight")).name == "OSNet-AIN"


def test_keys_of_no_family_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(CheckpointError) as refused:
        family_of(["conv.weight", "fc.bias"])
    assert "these 2 keys (conv.weight, fc.bias, ...): " in str(refused.value)
    assert all(family.name in str(refused.value) for family in families())
