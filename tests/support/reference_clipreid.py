"""CLIP-ReID image by image and token by token, from its formulas alone, in float64. No code of this project."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]


def batch_norm(x: Tensor, state: State, name: str) -> Tensor:
    scale = torch.sqrt(state[f"{name}.running_var"] + 1e-5)
    return (x - state[f"{name}.running_mean"]) / scale * state[f"{name}.weight"] + state[f"{name}.bias"]


def affine(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def block(x: Tensor, state: State, name: str, heads: int, kept: dict[str, Tensor], causal: bool = False) -> Tensor:
    """(N, D) -> (N, D). `kept` gets the input of the attention, as a leaf, and the (H, N, N) weights."""
    normed = layer_norm(x, state, f"{name}.ln_1")
    if "leaf" in kept:
        normed = kept["normed"] = normed.detach().requires_grad_(True)
    q, k, v = (normed @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]).chunk(3, -1)
    width = x.shape[1] // heads
    weights, values = [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / width**0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
        weights.append(scores.softmax(-1))
        values.append(v[:, part])
    kept["weights"] = torch.stack(weights)
    found = [one @ value for one, value in zip(kept["weights"], values, strict=True)]
    x = x + affine(torch.cat(found, 1), state, f"{name}.attn.out_proj")
    inner = affine(layer_norm(x, state, f"{name}.ln_2"), state, f"{name}.mlp.c_fc")
    return x + affine(inner * torch.sigmoid(1.702 * inner), state, f"{name}.mlp.c_proj")


def texts(state: State, layers: int, heads: int) -> Tensor:
    """(C, E) the features of all classes' whole texts of 77 tokens, read at EOT, position 11."""
    found = []
    for words in state["prompt_learner.cls_ctx"]:
        x = torch.cat([state["prompt_learner.token_prefix"][0], words, state["prompt_learner.token_suffix"][0]])
        x = x + state["text_encoder.positional_embedding"]
        for number in range(layers):
            x = block(x, state, f"text_encoder.transformer.resblocks.{number}", heads, {}, causal=True)
        found.append(layer_norm(x, state, "text_encoder.ln_final")[11] @ state["text_encoder.text_projection"])
    return torch.stack(found)


def explain(state: State, image: Tensor, *, stride: int, layers: int, heads: int, camera: Tensor | None = None,
            text: Tensor | None = None) -> dict[str, Tensor]:  # fmt: skip
    """(3, H, W) normalised -> logits, features, attention, and the input of the last attention as a leaf.

    `camera` (D,) is added to CLS. `text` (C, E) are the features of the classes' texts.
    """
    weight = state["image_encoder.conv1.weight"]
    size = weight.shape[-1]
    rows, columns = ((length - size) // stride + 1 for length in image.shape[1:])
    patches = torch.stack([
        (weight * image[:, stride * i : stride * i + size, stride * j : stride * j + size]).sum((1, 2, 3))
        for i in range(rows)
        for j in range(columns)
    ])  # fmt: skip
    cls = state["image_encoder.class_embedding"] + (0 if camera is None else camera)
    x = torch.cat([cls[None], patches]) + state["image_encoder.positional_embedding"]
    x = layer_norm(x, state, "image_encoder.ln_pre")
    for number in range(layers):
        kept: dict[str, Tensor] = {"leaf": x} if number == layers - 1 else {}
        x = block(x, state, f"image_encoder.transformer.resblocks.{number}", heads, kept)
    post = layer_norm(x, state, "image_encoder.ln_post")
    projected = post @ state["image_encoder.proj"]
    f, g = post[0], projected[0]
    feat, feat_proj = batch_norm(f, state, "bottleneck"), batch_norm(g, state, "bottleneck_proj")
    found = {
        "features_before": torch.cat([f, g]),
        "features_after": torch.cat([feat, feat_proj]),
        "logits": feat @ state["classifier.weight"].T,
        "logits_proj": feat_proj @ state["classifier_proj.weight"].T,
        "cls_attention": kept["weights"].mean(0)[0, 1:],
        "vit_norm": kept["normed"],
        "weights": kept["weights"],
        "patch_tokens": projected[1:],
    }
    if text is not None:
        found["logits_text"] = text @ g
        chosen = text[int(found["logits_text"].argmax())]
        cosines = [torch.dot(w, chosen) / (w.norm() * chosen.norm()) for w in projected[1:]]
        found["patch_text"] = torch.stack(cosines)
    return found
