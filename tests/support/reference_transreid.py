"""TransReID written down a second time, slowly and literally, straight on a state dict: the tests' independent oracle.

Every row of every block is computed, one image at a time. It shares no code with promptsg_core or cam.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the tensors do not tell, beside `heads` and `scale`, which follow from the variant."""

    heads: int
    scale: float
    stride: int = 16
    coefficient: float = 3.0
    shift: int = 5
    groups: int = 2
    parts: int = 4
    shuffled: bool = True
    cosine: float | None = None  # the scale of the cosine; None where the classifier is linear


@dataclass
class Reference:
    """Outputs by name, the (1+M, D) tokens that gradients are taken by, and each block's attention (H, N, N)."""

    values: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)
    weights: list[Tensor] = field(default_factory=list)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    found = x @ state[f"{name}.weight"].T
    return found + state[f"{name}.bias"] if f"{name}.bias" in state else found


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    x = (x - state[f"{name}.running_mean"]) / torch.sqrt(state[f"{name}.running_var"] + 1e-5)
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def block(state: State, name: str, x: Tensor, normed: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """(N, D) tokens and their first norm -> (N, D), and the (H, N, N) weights."""
    count, width = x.shape
    q, k, v = linear(state, f"{name}.attn.qkv", normed).reshape(count, 3, settings.heads, -1).permute(1, 2, 0, 3)
    weights = (q @ k.transpose(1, 2) * settings.scale).softmax(-1)
    x = x + linear(state, f"{name}.attn.proj", (weights @ v).transpose(0, 1).reshape(count, width))
    hidden = gelu(linear(state, f"{name}.mlp.fc1", layer_norm(state, f"{name}.norm2", x)))
    return x + linear(state, f"{name}.mlp.fc2", hidden), weights


def order_of(patches: int, settings: Settings) -> list[int]:
    """The order in which JPM deals out the patches."""
    if not settings.shuffled:
        return list(range(patches))
    order = [(settings.shift - 1 + i) % patches for i in range(patches)]
    if len(order) % settings.groups:
        order.append(order[-2])
    return torch.tensor(order).reshape(settings.groups, -1).T.flatten().tolist()


def embed(state: State, image: Tensor, settings: Settings, camera: int | None = None) -> Tensor:
    """One normalised image (3, H, W), float64 -> (1+M, D) before the first block; the graph begins at the image."""
    kernel, bias = state["base.patch_embed.proj.weight"], state["base.patch_embed.proj.bias"]
    image = image.clone().requires_grad_(True)
    patches = F.conv2d(image[None], kernel, bias, stride=settings.stride)[0].flatten(1).T
    x = torch.cat([state["base.cls_token"][0], patches]) + state["base.pos_embed"][0]
    if "base.sie_embed" in state:
        rows = state["base.sie_embed"][:, 0]
        x = x + settings.coefficient * (rows.mean(0) if camera is None else rows[camera])
    return x


def run(state: State, image: Tensor, settings: Settings, camera: int | None = None) -> Reference:
    """One normalised image (3, H, W), float64; the graph begins at the image."""
    out = Reference()
    depth = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("base.blocks."))
    jpm = "b1.0.norm1.weight" in state
    x = embed(state, image, settings, camera)
    patches = x[1:]
    for n in range(depth - 1):
        x, weights = block(state, f"base.blocks.{n}", x, layer_norm(state, f"base.blocks.{n}.norm1", x), settings)
        out.weights.append(weights)
    last, norm = ("b1.0", "b1.1") if jpm else (f"base.blocks.{depth - 1}", "base.norm")
    normed = layer_norm(state, f"{last}.norm1", x)
    after, weights = block(state, last, x, normed, settings)
    out.weights.append(weights)
    out.tokens["vit_norm"] = normed
    out.values["cls_attention"] = weights[:, 0, 1:].mean(0)
    branches = [layer_norm(state, norm, after)[0]]
    if jpm:
        local = layer_norm(state, "b2.0.norm1", x)
        out.tokens["local_norm"] = local
        order, each = order_of(len(patches), settings), len(patches) // settings.parts
        attention = torch.zeros(len(patches), dtype=x.dtype)
        for i in range(4):
            stripe = [0, *(1 + patch for patch in order[i * each : (i + 1) * each])]
            after, weights = block(state, "b2.0", x[stripe], local[stripe], settings)
            branches.append(layer_norm(state, "b2.1", after)[0])
            for place, patch in enumerate(stripe[1:], start=1):
                attention[patch - 1] += weights[:, 0, place].mean().detach() / 4
        out.values["local_attention"] = attention
    out.values |= read_out(state, branches, settings)
    return out


def read_out(state: State, branches: list[Tensor], settings: Settings) -> dict[str, Tensor]:
    """(D,) of all patches, then with JPM of each stripe, before the necks -> features and logits by name."""
    ends = ["", "_1", "_2", "_3", "_4"][: len(branches)]
    necks = [batch_norm(state, f"bottleneck{end}", f) for end, f in zip(ends, branches, strict=True)]
    classifiers = [state[f"classifier{end}.weight"] for end in ends]
    if settings.cosine is None:
        logits = [w @ f for w, f in zip(classifiers, necks, strict=True)]
    else:
        logits = [
            settings.cosine * (w @ f) / (w.norm(dim=1) * f.norm()) for w, f in zip(classifiers, necks, strict=True)
        ]
    return {
        "features_before": torch.cat([branches[0], *(f / 4 for f in branches[1:])]),
        "features_after": torch.cat([necks[0], *(f / 4 for f in necks[1:])]),
        "logits": logits[0],
        "all": sum(logits[1:], start=logits[0]),
    }


def cam(reference: Reference, method: str, layer: str, score: Tensor) -> Tensor:
    """(M,) map on a layer, as the papers write it."""
    tokens = reference.tokens[layer]
    (gradient,) = torch.autograd.grad(score, tokens, retain_graph=True)
    a, g = tokens.detach()[1:], gradient[1:]
    if method == "gradcam":
        return torch.relu((a * g.mean(0)).sum(1))
    if method == "hirescam":
        return torch.relu((a * g).sum(1))
    total = torch.zeros(len(a), dtype=a.dtype)
    for sign in (1, -1):  # A = relu(A) - relu(-A): two non-negative maps of each channel, with gradients g and -g
        part, slope = torch.relu(sign * a), sign * g
        alpha = torch.nan_to_num(slope**2 / (2 * slope**2 + part.sum(0) * slope**3))
        total = total + part @ (alpha * torch.relu(slope)).sum(0)
    return total


def rollout(reference: Reference, score: Tensor) -> Tensor:
    """(M,): Abnar and Zuidema 2020."""
    identity = torch.eye(reference.weights[0].shape[-1], dtype=torch.float64)
    mixed = [(weights.mean(0) + identity) / 2 for weights in reference.weights]
    return _product([one / one.sum(1, keepdim=True) for one in mixed])


def chefer(reference: Reference, score: Tensor) -> Tensor:
    """(M,): Chefer, Gur and Wolf 2021."""
    identity = torch.eye(reference.weights[0].shape[-1], dtype=torch.float64)
    gradients = torch.autograd.grad(score, reference.weights, retain_graph=True)
    relevance = [torch.relu(g * w).mean(0) for g, w in zip(gradients, reference.weights, strict=True)]
    return _product([identity + one for one in relevance])


def _product(factors: list[Tensor]) -> Tensor:
    found = factors[0]
    for one in factors[1:]:
        found = one @ found
    return found[0, 1:].detach()


RELEVANCE: Mapping[str, Callable[[Reference, Tensor], Tensor]] = {"rollout": rollout, "chefer": chefer}
