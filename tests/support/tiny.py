"""Tiny random PromptSG checkpoints, built from a seed: every size differs, so that a swapped axis cannot pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptsg_core.config import FamilyConfig
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.model import PromptSG

TINY: dict[str, Any] = {
    "image_size": (32, 16),
    "patch_size": 4,
    "stride": 4,
    "vision_width": 64,
    "vision_layers": 3,
    "vision_heads": 1,
    "embed_dim": 32,
    "text_width": 32,
    "text_layers": 2,
    "text_heads": 8,
    "inversion_widths": (40, 24),
    "mim_layers": 2,
    "num_classes": 7,
}


def tiny_state(seed: int = 0, **changes: Any) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A configuration and a random state dict of family H, its unused v_proj and out_proj included."""
    config = ModelConfig(**{**TINY, **changes})
    torch.manual_seed(seed)
    model = PromptSG(config)
    state = model.state_dict()
    for key, tensor in state.items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(0.1 * torch.randn_like(tensor))
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor) * tensor.shape[-1] ** -0.5)
    for name in ("v_proj", "out_proj"):
        state[f"mim.cross_attn.{name}.weight"] = torch.randn(config.embed_dim, config.embed_dim)
        state[f"mim.cross_attn.{name}.bias"] = torch.randn(config.embed_dim)
    state["prompt_composer.tokenized_composed"] = torch.zeros(0, dtype=torch.long)
    return config, {key: tensor.clone() for key, tensor in state.items()}


def tiny_checkpoint(path: Path, seed: int = 0, **changes: Any) -> ModelConfig:
    """Saves a tiny checkpoint and returns its configuration."""
    config, state = tiny_state(seed, **changes)
    torch.save(state, path)
    return config


def random_images(config: FamilyConfig, count: int, seed: int = 0) -> Tensor:
    """(count, 3, H, W) uint8 RGB noise with a smooth part, so that images differ at large scale too."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=config.image_size, mode="bilinear")
    noise = torch.rand(count, 3, *config.image_size, generator=generator)
    return (255 * (0.7 * smooth + 0.3 * noise)).to(torch.uint8)
