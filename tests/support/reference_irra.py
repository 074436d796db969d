"""IRRA written down a second time, slowly and literally, straight on a state dict, in float64.

All 77 tokens and every row of every block are computed, one image at a time. No code of promptsg_core or cam is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Read:
    """One image: CLS's feature (E,), logits (C,), projected tokens w (1+M, E), attention of CLS by head (H, M) in the
    last block, every block's weights (H, N, N), and the first norm of the last block (1+M, D), which has a gradient."""

    feature: Tensor
    logits: Tensor | None
    projected: Tensor
    cls_heads: Tensor
    weights: list[Tensor]
    normed: Tensor


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * state[f"{name}.weight"]
        + state[f"{name}.bias"]
    )


def weights_of(q: Tensor, k: Tensor, heads: int, causal: bool = False) -> Tensor:
    """(T, D), (N, D) -> (H, T, N)."""
    q, k = (x.reshape(len(x), heads, -1).transpose(0, 1) for x in (q, k))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    if causal:
        scores = scores + torch.full(scores.shape[1:], -torch.inf, dtype=scores.dtype).triu(1)
    return scores.softmax(-1)


def attend(state: State, name: str, normed: Tensor, heads: int, causal: bool) -> tuple[Tensor, Tensor]:
    qkv = normed @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]
    q, k, v = qkv.chunk(3, dim=1)
    weights = weights_of(q, k, heads, causal)
    gathered = weights @ v.reshape(len(v), heads, -1).transpose(0, 1)
    return linear(state, f"{name}.out_proj", gathered.transpose(0, 1).reshape(normed.shape)), weights


def block(state: State, name: str, x: Tensor, heads: int, causal: bool, normed: Tensor) -> tuple[Tensor, Tensor]:
    gathered, weights = attend(state, f"{name}.attn", normed, heads, causal)
    x = x + gathered
    hidden = linear(state, f"{name}.mlp.c_fc", norm(state, f"{name}.ln_2", x))
    return x + linear(state, f"{name}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden)), weights


def read_image(state: State, image: Tensor, *, stride: int, layers: int, heads: int) -> Read:
    """(3, H, W) uint8 RGB."""
    pixels = image.double() / 255
    pixels = (pixels - pixels.new_tensor(MEAN)[:, None, None]) / pixels.new_tensor(STD)[:, None, None]
    tower = "base_model.visual"
    patches = F.conv2d(pixels[None], state[f"{tower}.conv1.weight"], stride=stride)[0].flatten(1).T
    x = torch.cat([state[f"{tower}.class_embedding"][None], patches]) + state[f"{tower}.positional_embedding"]
    x = norm(state, f"{tower}.ln_pre", x)
    weights: list[Tensor] = []
    for number in range(layers):
        name = f"{tower}.transformer.resblocks.{number}"
        normed = norm(state, f"{name}.ln_1", x)
        if number == layers - 1:
            normed = normed.detach().requires_grad_(True)
        x, found = block(state, name, x, heads, False, normed)
        weights.append(found)
    projected = norm(state, f"{tower}.ln_post", x) @ state[f"{tower}.proj"]
    logits = linear(state, "classifier", projected[0]) if "classifier.weight" in state else None
    return Read(projected[0], logits, projected, weights[-1][:, 0, 1:], weights, normed)


def read_text(state: State, ids: list[int], *, layers: int, heads: int) -> Tensor:
    """(77, E): all projected tokens of a text that is padded with zeros."""
    padded = torch.tensor(ids + [0] * (77 - len(ids)))
    x = state["base_model.token_embedding.weight"][padded] + state["base_model.positional_embedding"]
    for number in range(layers):
        name = f"base_model.transformer.resblocks.{number}"
        x, _ = block(state, name, x, heads, True, norm(state, f"{name}.ln_1", x))
    return norm(state, "base_model.ln_final", x) @ state["base_model.text_projection"]


def cross_attention(state: State, text: Tensor, projected: Tensor, heads: int) -> Tensor:
    """(77, E) and (1+M, E) -> (77, M): mean over the heads, patches only."""
    q_weight, k_weight, _ = state["cross_attn.in_proj_weight"].chunk(3)
    q_bias, k_bias, _ = state["cross_attn.in_proj_bias"].chunk(3)
    q = norm(state, "ln_pre_t", text) @ q_weight.T + q_bias
    k = norm(state, "ln_pre_i", projected) @ k_weight.T + k_bias
    return weights_of(q, k, heads).mean(0)[:, 1:]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def cams(read: Read, score: Tensor) -> dict[str, Tensor]:
    """GradCAM and HiResCAM at the patches of `normed`, (M,) each."""
    gradient = torch.autograd.grad(score, read.normed, retain_graph=True)[0][1:]
    activations = read.normed.detach()[1:]
    return {
        "gradcam/vit_norm": torch.relu((gradient.mean(0) * activations).sum(1)),
        "hirescam/vit_norm": torch.relu((gradient * activations).sum(1)),
    }
