"""Tiny random OSNet checkpoints under torchreid's names, for each variant: sizes and norms as in its own files."""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS = (8, 64, 96, 128)
CLASSES, FEATURE = 7, 24
VARIANTS = ("plain", "ibn", "ain")
# Of each variant, where the blocks have an instance norm: none (n), after the sum (a), inside (i).
_NORMS = {"plain": "nnnnnn", "ibn": "aannnn", "ain": "iiniin"}


def tiny_osnet(variant: str = "plain", channels: tuple[int, ...] = CHANNELS, seed: int = 0) -> dict[str, Tensor]:
    """A random state dict, in float32."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def weights(name: str, *shape: int) -> None:
        fan = torch.Size(shape[1:]).numel()
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5

    def bias(name: str, width: int) -> None:
        state[f"{name}.bias"] = 0.3 * torch.randn(width, generator=generator)

    def norm(name: str, width: int, batch: bool = True) -> None:
        state[f"{name}.weight"] = 0.5 + torch.rand(width, generator=generator)
        bias(name, width)
        if batch:
            state[f"{name}.running_mean"] = 0.3 * torch.randn(width, generator=generator)
            state[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=generator)
            state[f"{name}.num_batches_tracked"] = torch.tensor(10)

    def layer(name: str, inside: int, outside: int, kernel: int = 1, batch: bool = True) -> None:
        weights(f"{name}.conv", outside, inside, kernel, kernel)
        norm(f"{name}.bn", outside, batch)

    def block(name: str, inside: int, outside: int, where: str) -> None:
        width = outside // 4
        layer(f"{name}.conv1", inside, width)
        for stream in _streams(name, variant):
            for one in stream:
                weights(f"{one}.conv1", width, width, 1, 1)
                weights(f"{one}.conv2", width, 1, 3, 3)
                norm(f"{one}.bn", width)
        for fc, shape in {"fc1": (width // 16, width), "fc2": (width, width // 16)}.items():
            weights(f"{name}.gate.{fc}", *shape, 1, 1)
            bias(f"{name}.gate.{fc}", shape[0])
        weights(f"{name}.conv3.conv", outside, width, 1, 1)
        if where != "i":
            norm(f"{name}.conv3.bn", outside)
        if inside != outside:
            layer(f"{name}.downsample", inside, outside)
        if where != "n":
            norm(f"{name}.IN", outside, batch=False)

    layer("conv1", 3, channels[0], 7, batch=variant == "plain")
    places = iter(_NORMS[variant])
    for stage, inside, outside in zip((2, 3, 4), channels, channels[1:], strict=False):
        block(f"conv{stage}.0", inside, outside, next(places))
        block(f"conv{stage}.1", outside, outside, next(places))
        if stage < 4:
            layer(f"pool{stage}.0" if variant == "ain" else f"conv{stage}.2.0", outside, outside)
    layer("conv5", channels[3], channels[3])
    weights("fc.0", FEATURE, channels[3])
    bias("fc.0", FEATURE)
    norm("fc.1", FEATURE)
    weights("classifier", CLASSES, FEATURE)
    bias("classifier", CLASSES)
    return state


def _streams(name: str, variant: str) -> list[list[str]]:
    if variant == "ain":
        return [[f"{name}.conv2.{t}.layers.{i}" for i in range(t + 1)] for t in range(4)]
    return [[f"{name}.conv2a"], *([f"{name}.conv2{'abcd'[t]}.{i}" for i in range(t + 1)] for t in (1, 2, 3))]
