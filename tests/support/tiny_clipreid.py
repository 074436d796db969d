"""Tiny random checkpoints of CLIP-ReID, written by the names and shapes of its own files."""

from __future__ import annotations

import torch
from torch import Tensor

WIDTH, JOINT, TEXT, LAYERS, CLASSES, SUFFIX = 128, 24, 64, 3, 5, 68


def tiny_clipreid(
    *,
    grid: tuple[int, int] = (16, 8),
    prompts: bool = True,
    cameras: int = 0,
    patch: int = 4,
    seed: int = 0,
    prefix: str = "",
) -> dict[str, Tensor]:
    """A state dict. The width is that of two heads. EOT stands at position 11, as in the author's texts."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5

    def vector(length: int, around: float) -> Tensor:
        return around + 0.1 * torch.randn(length, generator=generator)

    state: dict[str, Tensor] = {
        "image_encoder.class_embedding": normal(WIDTH),
        "image_encoder.positional_embedding": normal(1 + grid[0] * grid[1], WIDTH),
        "image_encoder.proj": normal(WIDTH, JOINT) * 2,
        "image_encoder.conv1.weight": torch.randn(WIDTH, 3, patch, patch, generator=generator) * 0.1,
        "classifier.weight": normal(CLASSES, WIDTH),
        "classifier_proj.weight": normal(CLASSES, JOINT),
    }

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = vector(width, 1.0), vector(width, 0.0)

    def block(name: str, width: int) -> None:
        state[f"{name}.attn.in_proj_weight"] = 2 * normal(3 * width, width)
        state[f"{name}.attn.in_proj_bias"] = vector(3 * width, 0.0)
        for part, out, into in (("attn.out_proj", width, width), ("mlp.c_fc", 4 * width, width),
                                ("mlp.c_proj", width, 4 * width)):  # fmt: skip
            state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"] = normal(out, into), vector(out, 0.0)
        norm(f"{name}.ln_1", width)
        norm(f"{name}.ln_2", width)

    norm("image_encoder.ln_pre", WIDTH)
    norm("image_encoder.ln_post", WIDTH)
    for number in range(LAYERS):
        block(f"image_encoder.transformer.resblocks.{number}", WIDTH)
    for name, width in (("bottleneck", WIDTH), ("bottleneck_proj", JOINT)):
        norm(name, width)
        state[f"{name}.running_mean"], state[f"{name}.running_var"] = vector(width, 0.0), vector(width, 1.0).abs()
        state[f"{name}.num_batches_tracked"] = torch.tensor(100)
    if cameras:
        state["cv_embed"] = normal(cameras, WIDTH) * 4
    if prompts:
        suffix = normal(1, SUFFIX, TEXT)
        suffix[:, 3:] = suffix[:, -1:]  # "person", ".", EOT, then padding
        state["prompt_learner.cls_ctx"] = normal(CLASSES, 4, TEXT)
        state["prompt_learner.token_prefix"], state["prompt_learner.token_suffix"] = normal(1, 5, TEXT), suffix
        state["text_encoder.positional_embedding"] = normal(9 + SUFFIX, TEXT)
        state["text_encoder.text_projection"] = normal(TEXT, JOINT)
        norm("text_encoder.ln_final", TEXT)
        for number in range(2):
            block(f"text_encoder.transformer.resblocks.{number}", TEXT)
    return {prefix + key: tensor for key, tensor in state.items()}


def of_stage_1(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with necks that have never seen a batch, as after the training of the prompts alone."""
    made = {"num_batches_tracked": 0, "running_mean": 0, "running_var": 1}
    necks = {f"{neck}.{name}": value for neck in ("bottleneck", "bottleneck_proj") for name, value in made.items()}
    return state | {key: torch.full_like(state[key], value) for key, value in necks.items()}
