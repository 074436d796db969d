"""Tiny random IRRA checkpoints, built tensor by tensor under the names of IRRA's own code."""

from __future__ import annotations

import torch
from torch import Tensor

WIDTH, JOINT, TEXT, PATCH, LAYERS, TEXT_LAYERS = 128, 192, 32, 4, 3, 2
VOCABULARY, CONTEXT = 49408, 77


def tiny_irra(
    patches: int = 192, *, classes: int = 7, masked_captions: bool = True, half: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """A state dict for images of so many patches; `half` stores the weights of layers in float16, as IRRA does."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def put(name: str, *shape: int, scale: float = 1.0, around: float = 0.0) -> None:
        found = around + torch.randn(*shape, generator=generator) * scale
        state[name] = found.half() if half and len(shape) > 1 and "embedding" not in name else found

    def linear(name: str, outputs: int, inputs: int) -> None:
        put(f"{name}.weight", outputs, inputs, scale=inputs**-0.5)
        put(f"{name}.bias", outputs, scale=0.1)

    def norm(name: str, width: int) -> None:
        put(f"{name}.weight", width, scale=0.1, around=1.0)
        put(f"{name}.bias", width, scale=0.1)

    def attention(name: str, width: int) -> None:
        put(f"{name}.in_proj_weight", 3 * width, width, scale=width**-0.5)
        put(f"{name}.in_proj_bias", 3 * width, scale=0.1)
        linear(f"{name}.out_proj", width, width)

    def blocks(name: str, count: int, width: int) -> None:
        for number in range(count):
            block = f"{name}.resblocks.{number}"
            attention(f"{block}.attn", width)
            norm(f"{block}.ln_1", width)
            linear(f"{block}.mlp.c_fc", 4 * width, width)
            linear(f"{block}.mlp.c_proj", width, 4 * width)
            norm(f"{block}.ln_2", width)

    put("base_model.visual.class_embedding", WIDTH, scale=0.5)
    put("base_model.visual.positional_embedding", 1 + patches, WIDTH, scale=0.3)
    put("base_model.visual.conv1.weight", WIDTH, 3, PATCH, PATCH, scale=(3 * PATCH * PATCH) ** -0.5)
    put("base_model.visual.proj", WIDTH, JOINT, scale=WIDTH**-0.5)
    norm("base_model.visual.ln_pre", WIDTH)
    norm("base_model.visual.ln_post", WIDTH)
    blocks("base_model.visual.transformer", LAYERS, WIDTH)
    put("base_model.token_embedding.weight", VOCABULARY, TEXT, scale=0.5)
    put("base_model.positional_embedding", CONTEXT, TEXT, scale=0.3)
    blocks("base_model.transformer", TEXT_LAYERS, TEXT)
    norm("base_model.ln_final", TEXT)
    put("base_model.text_projection", TEXT, JOINT, scale=TEXT**-0.5)
    if classes:
        linear("classifier", classes, JOINT)
    if masked_captions:
        attention("cross_attn", JOINT)
        for name in ("ln_pre_t", "ln_pre_i", "ln_post", "mlm_head.ln"):
            norm(name, JOINT)
        blocks("cross_modal_transformer", 1, JOINT)
        linear("mlm_head.dense", JOINT, JOINT)
        linear("mlm_head.fc", 50, JOINT)
    return state
