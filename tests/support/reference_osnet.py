"""OSNet written down a second time, from the papers and straight on a state dict of torchreid: the tests' oracle.

Plain functions, one image at a time, in the state dict's own type; nothing of promptsg_core or cam is used.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def norm(state: State, name: str, x: Tensor) -> Tensor:
    """(D, h, w) -> (D, h, w): a batch norm where there are running statistics, else an instance norm."""
    if f"{name}.running_mean" in state:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    else:
        mean = x.mean((1, 2))
        variance = ((x - mean[:, None, None]) ** 2).mean((1, 2))
    x = (x - mean[:, None, None]) / torch.sqrt(variance + 1e-5)[:, None, None]
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def convolution(state: State, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    kernel = state[f"{name}.weight"]
    bias = state.get(f"{name}.bias")
    return F.conv2d(x[None], kernel, bias, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)[0]


def layer(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Convolution, norm, ReLU."""
    return torch.relu(norm(state, f"{name}.bn", convolution(state, f"{name}.conv", x, stride)))


def light(state: State, name: str, x: Tensor) -> Tensor:
    x = convolution(state, f"{name}.conv1", x)
    return torch.relu(norm(state, f"{name}.bn", convolution(state, f"{name}.conv2", x, groups=len(x))))


def gate(state: State, name: str, x: Tensor) -> Tensor:
    hidden = torch.relu(convolution(state, f"{name}.fc1", x.mean((1, 2), keepdim=True)))
    return x / (1 + torch.exp(-convolution(state, f"{name}.fc2", hidden)))


def streams(state: State, name: str) -> list[list[str]]:
    """The names of the light convolutions of the four streams, in the two ways of torchreid."""
    if f"{name}.conv2a.conv1.weight" in state:
        return [[f"{name}.conv2a"], *([f"{name}.conv2{'abcd'[t]}.{i}" for i in range(t + 1)] for t in (1, 2, 3))]
    return [[f"{name}.conv2.{t}.layers.{i}" for i in range(t + 1)] for t in range(4)]


def block(state: State, name: str, x: Tensor) -> Tensor:
    narrow = layer(state, f"{name}.conv1", x)
    total = torch.zeros_like(narrow)
    for stream in streams(state, name):
        found = narrow
        for one in stream:
            found = light(state, one, found)
        total = total + gate(state, f"{name}.gate", found)
    wide = convolution(state, f"{name}.conv3.conv", total)
    batch_norm, instance_norm = f"{name}.conv3.bn.weight" in state, f"{name}.IN.weight" in state
    if batch_norm:
        wide = norm(state, f"{name}.conv3.bn", wide)
    elif instance_norm:
        wide = norm(state, f"{name}.IN", wide)
    if f"{name}.downsample.conv.weight" in state:
        x = norm(state, f"{name}.downsample.bn", convolution(state, f"{name}.downsample.conv", x))
    x = x + wide
    if batch_norm and instance_norm:
        x = norm(state, f"{name}.IN", x)
    return torch.relu(x)


def halve(state: State, name: str, x: Tensor) -> Tensor:
    x = layer(state, name, x)
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def last_places(state: State, image: Tensor) -> Tensor:
    """A normalised image (3, H, W) -> (D, h, w), the output of conv5 after its ReLU."""
    x = layer(state, "conv1", image, stride=2)
    x = F.max_pool2d(x[None], 3, 2, 1)[0]
    for stage in (2, 3, 4):
        x = block(state, f"conv{stage}.1", block(state, f"conv{stage}.0", x))
        if stage < 4:
            pool = f"pool{stage}.0" if f"pool{stage}.0.conv.weight" in state else f"conv{stage}.2.0"
            x = halve(state, pool, x)
    return layer(state, "conv5", x)


def read_out(state: State, places: Tensor) -> tuple[Tensor, Tensor]:
    """(D, h, w) -> the feature (F,) and the logits (C,)."""
    feature = state["fc.0.weight"] @ places.mean((1, 2)) + state["fc.0.bias"]
    feature = torch.relu(norm(state, "fc.1", feature[:, None, None])[:, 0, 0])
    return feature, state["classifier.weight"] @ feature + state["classifier.bias"]


def cam(places: Tensor, gradient: Tensor, method: str) -> Tensor:
    """(D, h, w) activations, none negative, and their gradient -> (h, w), as the papers' sums over channels."""
    if method == "gradcam":
        weights = gradient.mean((1, 2))
    elif method == "gradcam++":
        sums = places.sum((1, 2), keepdim=True)
        alpha = gradient**2 / (2 * gradient**2 + sums * gradient**3)
        weights = (torch.where(gradient > 0, alpha, 0.0) * torch.relu(gradient)).sum((1, 2))
    else:
        return torch.relu((places * gradient).sum(0))
    return torch.relu((places * weights[:, None, None]).sum(0))
