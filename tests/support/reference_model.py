"""PromptSG written down a second time, slowly and literally, straight on a state dict: the tests' independent oracle.

Nothing is cached or skipped: 77 text tokens, every row of every block, one image at a time for gradients. It shares
no code with promptsg_core or cam.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

COMPOSED = [49406, 320, 1125, 539, 320, 343, 2533, 49407]
SIMPLIFIED = [49406, 320, 1125, 539, 320, 2533, 49407]
State = Mapping[str, Tensor]


@dataclass
class Reference:
    """Outputs by name, the tensors that gradients are taken by (tokens (1+M, D) with CLS first), and each block's
    self-attention (H, N, N), the tower's first, then the MIM's."""

    values: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)
    weights: list[Tensor] = field(default_factory=list)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", torch.zeros(()))


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    x = (x - state[f"{name}.running_mean"]) / torch.sqrt(state[f"{name}.running_var"] + 1e-5)
    if f"{name}.weight" in state:
        x = x * state[f"{name}.weight"] + state[f"{name}.bias"]
    return x


def attention(qkv: Tensor, heads: int, mask: Tensor | None = None, record: list[Tensor] | None = None) -> Tensor:
    """(N, 3D) fused projections -> (N, D); the (H, N, N) weights are appended to `record`."""
    count, width = qkv.shape[0], qkv.shape[1] // 3
    q, k, v = (part.reshape(count, heads, width // heads).transpose(0, 1) for part in qkv.split(width, dim=1))
    scores = q @ k.transpose(1, 2) / (width // heads) ** 0.5
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1)
    if record is not None:
        record.append(weights)
    return (weights @ v).transpose(0, 1).reshape(count, width)


def clip_block(
    state: State, name: str, x: Tensor, heads: int, mask: Tensor | None = None, record: list[Tensor] | None = None
) -> Tensor:
    normed = layer_norm(state, f"{name}.ln_1", x)
    qkv = normed @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]
    x = x + linear(state, f"{name}.attn.out_proj", attention(qkv, heads, mask, record))
    hidden = linear(state, f"{name}.mlp.c_fc", layer_norm(state, f"{name}.ln_2", x))
    return x + linear(state, f"{name}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))


def image_tokens(
    state: State, image: Tensor, layers: int, heads: int, stride: int, record: list[Tensor] | None = None
) -> Tensor:
    """(3, H, W) -> (1+M, D), the last block's output."""
    kernel = state["image_encoder.conv1.weight"]
    patches = F.conv2d(image[None], kernel, stride=stride)[0].flatten(1).T
    x = torch.cat([state["image_encoder.class_embedding"][None], patches])
    x = layer_norm(state, "image_encoder.ln_pre", x + state["image_encoder.positional_embedding"])
    for n in range(layers):
        x = clip_block(state, f"image_encoder.transformer.resblocks.{n}", x, heads, None, record)
    return x


def text_feature(state: State, ids: list[int], word: Tensor | None, layers: int, heads: int) -> Tensor:
    """The feature at EOT of the prompt padded with zeros to 77 tokens."""
    padded = torch.tensor(ids + [0] * (77 - len(ids)))
    x = state["prompt_composer.token_embedding.weight"][padded]
    if word is not None:
        x = torch.cat([x[:5], word[None], x[6:]])
    x = x + state["text_encoder.positional_embedding"]
    mask = torch.full((77, 77), -torch.inf, dtype=x.dtype).triu(1)
    for n in range(layers):
        x = clip_block(state, f"text_encoder.transformer.resblocks.{n}", x, heads, mask)
    x = layer_norm(state, "text_encoder.ln_final", x)
    return x[int(padded.argmax())] @ state["text_encoder.text_projection"]


def post_block(state: State, name: str, x: Tensor, normed: Tensor, heads: int, record: list[Tensor] | None) -> Tensor:
    qkv = linear(state, f"{name}.attn.qkv", normed)
    x = x + linear(state, f"{name}.attn.proj", attention(qkv, heads, None, record))
    hidden = linear(state, f"{name}.mlp.fc1", layer_norm(state, f"{name}.norm2", x))
    return x + linear(state, f"{name}.mlp.fc2", hidden * torch.sigmoid(1.702 * hidden))


def run(
    state: State,
    image: Tensor,
    *,
    layers: int,
    heads: int,
    stride: int,
    text_layers: int,
    text_heads: int = 8,
    mim_heads: int = 8,
    mim_layers: int = 2,
    mode: str = "composed",
    reweight: str = "mul_mean1",
    whole: bool = False,
) -> Reference:
    """One normalised image (3, H, W) through the model of the paper; float64 in, float64 out.

    Gradients end at the tower's output; with `whole` they go on to the image, through v and the text too.
    """
    out = Reference()
    record = out.weights
    tokens = image_tokens(state, image.requires_grad_(whole), layers, heads, stride, record)
    if not whole:
        tokens = tokens.detach().requires_grad_(True)
    post = layer_norm(state, "image_encoder.ln_post", tokens)
    projected = post @ state["image_encoder.proj"]
    v, patches = projected[0] if whole else projected[0].detach(), projected[1:]
    word = None
    if mode == "composed":
        hidden = F.relu(linear(state, "inversion.fc2", F.relu(linear(state, "inversion.fc1", v))))
        word = batch_norm(state, "inversion.bn", linear(state, "inversion.fc3", hidden))
    ids = COMPOSED if mode == "composed" else SIMPLIFIED
    text = text_feature(state, ids, word, text_layers, text_heads)
    q = linear(state, "mim.cross_attn.q_proj", layer_norm(state, "mim.q_ln", text))
    k = linear(state, "mim.cross_attn.k_proj", layer_norm(state, "mim.kv_ln", patches))
    width = q.shape[0] // mim_heads
    scores = torch.stack([k[:, i * width : (i + 1) * width] @ q[i * width : (i + 1) * width] for i in range(mim_heads)])
    weights = (scores / width**0.5).softmax(1).mean(0)
    count = len(weights)
    factor = {"mul_mean1": weights * count, "mul": weights, "residual": 1 + weights * count}[reweight]
    x = torch.cat([v[None], patches * factor[:, None]])
    for n in range(mim_layers):
        normed = layer_norm(state, f"mim.post_blocks.{n}.norm1", x)
        x = post_block(state, f"mim.post_blocks.{n}", x, normed, mim_heads, record)
    bottleneck = batch_norm(state, "bottleneck_proj", x)
    classes = bottleneck @ state["classifier_proj.weight"].T
    cls_final = post[0] if whole else post[0].detach()
    feat = batch_norm(state, "bottleneck", cls_final)
    out.values = {
        "mim_attention": weights,
        "text_features": text,
        "patch_tokens": patches,
        "v_final": x[0],
        "logits": feat @ state["classifier.weight"].T,
        "logits_proj": classes[0],
        "features_before": torch.cat([cls_final, x[0]]),
        "features_after": torch.cat([feat, bottleneck[0]]),
    }
    out.tokens = {"vit_last": tokens, "vit_proj": post, "mim": normed, "bottleneck": bottleneck, "classifier": classes}
    return out


def cam(reference: Reference, method: str, layer: str, score: Tensor) -> Tensor:
    """(M,) map, by loops over channels and patches as the papers write them."""
    tokens = reference.tokens[layer]
    (gradient,) = torch.autograd.grad(score, tokens, retain_graph=True)
    if layer in ("bottleneck", "classifier"):  # every patch takes the gradient that CLS has
        gradient = gradient[:1].expand(len(gradient), -1)
    activations, gradient = tokens.detach()[1:], gradient[1:]
    patches, channels = activations.shape
    if method == "gradcam":
        weights = [gradient[:, d].sum() / patches for d in range(channels)]
        return torch.relu(sum(weights[d] * activations[:, d] for d in range(channels)))
    if method == "hirescam":
        return torch.relu(sum(gradient[:, d] * activations[:, d] for d in range(channels)))
    total = torch.zeros(patches, dtype=activations.dtype)
    for sign in (1, -1):  # A = relu(A) - relu(-A): two non-negative channels with gradients g and -g
        for d in range(channels):
            a, g = torch.relu(sign * activations[:, d]), sign * gradient[:, d]
            alpha = torch.where(g != 0, g**2 / (2 * g**2 + a.sum() * g**3), torch.zeros_like(g))
            alpha = torch.nan_to_num(alpha)
            total = total + (alpha * torch.relu(g)).sum() * a
    return total
