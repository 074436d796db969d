"""Tiny random TransReID checkpoints, built from a seed, with the tensors that the training code saves and never uses.

The tensors are named here and not by the program, so that a file of another shape would show.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A variant. The default is a small relative of ViT-base."""

    image_size: tuple[int, int] = (64, 32)
    stride: int = 16
    width: int = 128
    depth: int = 3
    mlp_ratio: int = 4
    bias: bool = True
    jpm: bool = True
    cameras: int = 6
    classes: int = 7

    @property
    def patches(self) -> int:
        """How many patches of 16 pixels an image has."""
        h, w = ((side - 16) // self.stride + 1 for side in self.image_size)
        return h * w


def tiny_state(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """A random state dict, in float32."""
    made = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.2
        return scale * torch.randn(*shape, generator=made)

    d, state = sizes.width, dict[str, Tensor]()

    def add(name: str, rows: int, columns: int, bias: bool = True) -> None:
        state[f"{name}.weight"] = random(rows, columns)
        if bias:
            state[f"{name}.bias"] = random(rows)

    def add_norm(name: str) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + random(d), random(d)

    def add_block(name: str) -> None:
        add_norm(f"{name}.norm1")
        add(f"{name}.attn.qkv", 3 * d, d, sizes.bias)
        add(f"{name}.attn.proj", d, d)
        add_norm(f"{name}.norm2")
        add(f"{name}.mlp.fc1", sizes.mlp_ratio * d, d)
        add(f"{name}.mlp.fc2", d, sizes.mlp_ratio * d)

    state["base.cls_token"], state["base.pos_embed"] = random(1, 1, d), random(1, 1 + sizes.patches, d)
    if sizes.cameras:
        state["base.sie_embed"] = random(sizes.cameras, 1, d)
    state["base.patch_embed.proj.weight"] = torch.randn(d, 3, 16, 16, generator=made) * 0.05
    state["base.patch_embed.proj.bias"] = random(d)
    for n in range(sizes.depth):
        add_block(f"base.blocks.{n}")
    add_norm("base.norm")
    add("base.fc", 1000, d)
    ends = ["", "_1", "_2", "_3", "_4"] if sizes.jpm else [""]
    for name in ("b1", "b2") if sizes.jpm else ():
        add_block(f"{name}.0")
        add_norm(f"{name}.1")
    for end in ends:
        add_norm(f"bottleneck{end}")
        state[f"bottleneck{end}.running_mean"] = random(d)
        state[f"bottleneck{end}.running_var"] = 0.5 + torch.rand(d, generator=made)
        state[f"bottleneck{end}.num_batches_tracked"] = torch.tensor(9)
        state[f"classifier{end}.weight"] = random(sizes.classes, d)
    return state


def tiny_checkpoint(path: Path, sizes: Sizes, prefix: str = "", half: bool = False) -> dict[str, Tensor]:
    """Saves a tiny checkpoint and returns its tensors as they are in the file, without the prefix."""
    state = tiny_state(sizes)
    if half:
        state = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    torch.save({prefix + key: tensor for key, tensor in state.items()}, path)
    return state
