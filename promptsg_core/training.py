"""Training a PromptSG: the forward pass with gradients, the objective, frozen parameters, learning rates, saving.

Legend: B batch, M patches, D channels, E joint width, C classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from promptsg_core.config import FieldValue
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.losses import contrastive_loss, identity_loss, triplet_loss
from promptsg_core.prompts import PROMPTS
from promptsg_core.taps import Taps
from promptsg_core.towers.vision import VisionTower

# The tokens of the templates; a model that was trained from scratch has learnt no others.
PROMPT_TOKENS = tuple(sorted({token for prompt in PROMPTS.values() for token in prompt.tokens}))
_QK = ("mim.cross_attn.q_proj.", "mim.cross_attn.k_proj.", "mim.q_ln.", "mim.kv_ln.")
_TOWERS = ("image_encoder.", "text_encoder.", "prompt_composer.")
_TEXT = ("text_encoder.", "prompt_composer.")
# The necks have no bias (Luo et al. 2019), and a bias of keys adds the same to every score, which softmax drops.
_UNTRAINED = ("bottleneck.bias", "bottleneck_proj.bias", "mim.cross_attn.k_proj.bias")
_UNDECAYED = ("positional_embedding", "token_embedding.weight")


def small_config(num_classes: int, **changes: FieldValue) -> ModelConfig:
    """A model of a million parameters for 128x64 images, small enough to be trained from scratch on two cores."""
    small: dict[str, FieldValue] = {
        "image_size": (128, 64),
        "patch_size": 8,
        "stride": 8,
        "vision_width": 128,
        "vision_layers": 2,
        "vision_heads": 2,
        "embed_dim": 128,
        "text_width": 64,
        "text_layers": 2,
        "text_heads": 8,
        "inversion_widths": (128, 128),
        "mim_heads": 8,
    }
    return ModelConfig.from_fields({**small, **changes, "num_classes": num_classes})


@dataclass(frozen=True, kw_only=True)
class TrainingOutput:
    """What the objective reads.

    cls_intermediate and cls_final (B, D): CLS after the last block but one, and after `ln_post`. v, text and v_final
    (B, E). logits_cls and logits (B, C): of the CLS and of the MIM head. attention (B, M): the mean over the heads.
    """

    cls_intermediate: Tensor
    cls_final: Tensor
    v: Tensor
    text: Tensor
    v_final: Tensor
    logits_cls: Tensor
    logits: Tensor
    attention: Tensor


def training_forward(model: PromptSG, images: Tensor) -> TrainingOutput:
    """(B, 3, H, W) uint8 RGB or normalised floats -> TrainingOutput, with gradients to every trained parameter.

    Under autocast the towers and the MIM compute in low precision; the necks and classifiers never do.
    """
    tower = model.image_encoder
    before_last, tokens = _last_states(tower, model.prepare(images))
    post = tower.ln_post(tokens)
    projected = post @ tower.proj
    v, patches = projected[:, 0], projected[:, 1:]
    text = model.encode_text(v).expand(len(v), -1)
    mim = model.mim(text, v, patches, Taps())
    with torch.autocast(images.device.type, enabled=False):
        cls_final, v_final = post[:, 0].to(model.head_dtype), mim.v_final.to(model.head_dtype)
        return TrainingOutput(
            cls_intermediate=before_last[:, 0],
            cls_final=cls_final,
            v=v,
            text=text,
            v_final=v_final,
            logits_cls=model.classifier(model.bottleneck(cls_final)),
            logits=model.classifier_proj(model.bottleneck_proj(v_final)),
            attention=mim.attention,
        )


def _last_states(tower: VisionTower, images: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) -> the (B, 1+M, D) outputs of the last block but one and of the last block; the second is
    `tower(images)`.
    """
    patches = tower.conv1(images).flatten(2).transpose(1, 2)
    cls = tower.class_embedding.expand(len(images), 1, -1)
    tokens = tower.ln_pre(torch.cat([cls, patches], dim=1) + tower.positional_embedding)
    *blocks, last = tower.transformer.blocks
    for block in blocks:
        tokens = block(tokens)
    return tokens, last(tokens)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The weights and constants of the training loss; the defaults are the paper's."""

    id_weight: float = 1.0
    triplet_weight: float = 1.0
    contrastive_weight: float = 0.5
    smoothing: float = 0.1
    margin: float = 0.3
    temperature: float = 0.1
    unit_triplets: bool = False  # triplet distances between features of unit length

    def __call__(self, out: TrainingOutput, labels: Tensor) -> dict[str, Tensor]:
        """name -> scalar: first `loss`, the weighted sum of all terms, then each term without its weight."""
        identity = {
            "id_cls": identity_loss(out.logits_cls, labels, self.smoothing),
            "id_mim": identity_loss(out.logits, labels, self.smoothing),
        }
        features = {
            "triplet_intermediate": out.cls_intermediate,
            "triplet_cls": out.cls_final,
            "triplet_mim": out.v_final,
        }
        if self.unit_triplets:
            features = {name: F.normalize(tensor.float(), dim=1) for name, tensor in features.items()}
        triplet = {name: triplet_loss(tensor, labels, self.margin) for name, tensor in features.items()}
        contrastive = contrastive_loss(out.v, out.text, labels, self.temperature)
        total = self.id_weight * torch.stack(list(identity.values())).sum()
        total = total + self.triplet_weight * torch.stack(list(triplet.values())).sum()
        return {
            "loss": total + self.contrastive_weight * contrastive,
            **identity,
            **triplet,
            "contrastive": contrastive,
        }


@torch.no_grad()
def progress_of(out: TrainingOutput, labels: Tensor) -> dict[str, Tensor]:
    """`accuracy`, the share of the batch that the MIM head classifies correctly, and `attention_entropy` over log M.

    An entropy of 1 is a uniform map: the text guides nothing.
    """
    accuracy = (out.logits.argmax(dim=1) == labels).float().mean()
    entropy = -torch.xlogy(out.attention, out.attention).sum(dim=1).mean() / math.log(out.attention.shape[1])
    return {"accuracy": accuracy, "attention_entropy": entropy}


def prepare_training(model: PromptSG, *, freeze_text: bool) -> PromptSG:
    """Puts a model into train mode, initialises its classifiers, freezes what is not trained, and returns it.

    With `freeze_text` the text tower and the token embeddings are frozen. The biases of the two necks are always frozen
    (the BNNeck of Luo et al. 2019, arXiv:1903.07071, whose classifiers have no bias either), and so is that of the
    MIM's keys.
    """
    for classifier in (model.classifier, model.classifier_proj):
        nn.init.normal_(classifier.weight, std=0.001)
    model.train().requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name in _UNTRAINED or (freeze_text and name.startswith(_TEXT)):
            parameter.requires_grad_(False)
    return model


def parameter_groups(model: PromptSG, rates: Mapping[str, float], weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters in the form of torch's optimizers, with `name` and `base_lr` for each group.

    `rates` are the learning rates of `tower`, `qk` and `new`. tower: CLIP's modules. qk: the MIM's q_proj, k_proj, q_ln
    and kv_ln, which alone form the map; at the rate of the others it stays uniform. new: all others. Vectors and
    embeddings are not decayed.
    """
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "tower" if name.startswith(_TOWERS) else "qk" if name.startswith(_QK) else "new"
            decayed = parameter.ndim > 1 and not name.endswith(_UNDECAYED)
            members.setdefault((kind, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "name": f"{kind}{'' if decayed else '_undecayed'}",
            "lr": rates[kind],
            "base_lr": rates[kind],
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (kind, decayed), parameters in members.items()
    ]


def step_factor(step: int, warmup: int, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """The factor of the learning rates at a 0-based step: a linear warm-up, then times gamma at each milestone."""
    return min(1.0, (step + 1) / warmup if warmup else 1.0) * gamma ** sum(step >= m for m in milestones)


def cosine_factor(step: int, warmup: int, steps: int) -> float:
    """The factor of the learning rates at a 0-based step: a linear warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def checkpoint_bytes(model: PromptSG, *, half: bool = False, token_rows: Sequence[int] | None = None) -> bytes:
    """A safetensors file of family H that `load_model` reads, with the configuration in its metadata.

    `promptsg.config` is the ModelConfig as JSON. With `token_rows` only these rows of the token embedding are kept, in
    this order; `promptsg.token_rows` lists their token ids, and the configuration's `vocab_size` is their number.
    `half` stores matrices as float16; vectors, running statistics included, stay float32.
    """
    state = {key: tensor.detach().cpu() for key, tensor in model.state_dict().items()}
    config = model.config.to_dict()
    metadata = {"format": "pt"}
    if token_rows is not None:
        key = "prompt_composer.token_embedding.weight"
        state[key] = state[key][list(token_rows)]
        config["vocab_size"] = len(token_rows)
        metadata["promptsg.token_rows"] = json.dumps(list(token_rows))
    if half:
        state = {key: t.half() if t.is_floating_point() and t.ndim > 1 else t for key, t in state.items()}
    metadata["promptsg.config"] = json.dumps(config)
    return _in_order(save({key: tensor.contiguous() for key, tensor in state.items()}, metadata))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted by name: the library writes it in another order in each process.

    A file is the length of its header (8 bytes), the header in JSON, and the tensors.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors begin at a multiple of 8 bytes
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[end:]])
