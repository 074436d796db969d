"""ModelConfig from the shapes of a checkpoint's tensors, and from what the user says where shapes cannot tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from promptsg_core.config import ModelConfig, grid_of
from promptsg_core.errors import CheckpointError, ModelError

# (image height, image width, stride) in patches, as published models use them; the first that fits the rows is taken.
_LAYOUTS = ((16, 8, 1.0), (16, 8, 0.75), (24, 8, 1.0), (16, 16, 1.0))
_HEAD_WIDTH = 64  # of CLIP's towers; head counts leave no trace in the tensors
_SMALLEST_TEXT_HEADS = 8  # narrow text towers keep the 8 heads of ViT-B/16's


def infer_config(state: Mapping[str, Tensor], given: Mapping[str, Any]) -> ModelConfig:
    """The configuration of a family-H state dict; `given` holds ModelConfig fields that the user stated.

    Raises CheckpointError when a tensor that decides a size is missing, and ModelError when a stated value
    contradicts the tensors, naming both.
    """
    told = _from_shapes(state)
    for name, value in given.items():
        if name in told and told[name] != value:
            raise ModelError(f"{name} is {value} in the configuration, but the checkpoint's tensors say {told[name]}")
    rows = _shape(state, "image_encoder.positional_embedding")[0] - 1
    told |= _layout(rows, told["patch_size"], given)
    return ModelConfig(**{**_assumed(told), **given, **told})


def _from_shapes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, patch, _ = _shape(state, "image_encoder.conv1.weight", 4)
    _, text_width = _shape(state, "prompt_composer.token_embedding.weight")
    inversion = [_shape(state, f"inversion.fc{n}.weight")[0] for n in (1, 2)]
    return {
        "patch_size": patch,
        "vision_width": width,
        "vision_layers": _count(state, r"^image_encoder\.transformer\.resblocks\.(\d+)\."),
        "embed_dim": _shape(state, "image_encoder.proj")[1],
        "text_width": text_width,
        "text_layers": _count(state, r"^text_encoder\.transformer\.resblocks\.(\d+)\."),
        "context_length": _shape(state, "text_encoder.positional_embedding")[0],
        "vocab_size": _shape(state, "prompt_composer.token_embedding.weight")[0],
        "inversion_widths": tuple(inversion),
        "inversion_affine": "inversion.bn.weight" in state,
        "mim_layers": _count(state, r"^mim\.post_blocks\.(\d+)\."),
        "mim_qkv_bias": "mim.post_blocks.0.attn.qkv.bias" in state,
        "num_classes": _shape(state, "classifier_proj.weight")[0],
    }


def _assumed(told: Mapping[str, Any]) -> dict[str, Any]:
    """Head counts as CLIP sets them, unless the user states others."""
    return {
        "vision_heads": max(1, told["vision_width"] // _HEAD_WIDTH),
        "text_heads": max(_SMALLEST_TEXT_HEADS, told["text_width"] // _HEAD_WIDTH),
    }


def _layout(rows: int, patch: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Image size and stride whose grid has as many patches as the positional embedding has rows besides CLS."""
    if "image_size" in given or "stride" in given:
        size, stride = given.get("image_size", (16 * patch, 8 * patch)), given.get("stride", patch)
        h, w = grid_of(size, patch, stride)
        if h * w == rows:
            return {"image_size": tuple(size), "stride": stride}
        raise ModelError(
            f"image size {tuple(size)} with stride {stride} gives a grid of {h}x{w} = {h * w} patches, "
            f"but the checkpoint's positional embedding has {rows}"
        )
    for tall, wide, step in _LAYOUTS:
        size, stride = (tall * patch, wide * patch), round(step * patch)
        h, w = grid_of(size, patch, stride)
        if h * w == rows:
            return {"image_size": size, "stride": stride}
    raise ModelError(
        f"the positional embedding has {rows} patches, which is no known layout: give the image size and the stride "
        f"(for example INPUT.SIZE_TEST '[256, 128]' MODEL.STRIDE_SIZE '[16, 16]')"
    )


def _shape(state: Mapping[str, Tensor], key: str, dims: int = 2) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(f"the tensor {key} is missing")
    shape = tuple(state[key].shape)
    if len(shape) != dims:
        raise CheckpointError(f"the tensor {key} has shape {shape}, expected {dims} dimensions")
    return shape


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = {int(found[1]) for key in state if (found := re.match(pattern, key))}
    return len(numbers)
