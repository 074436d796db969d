"""ModelConfig from the shapes of a checkpoint's tensors, and from what the user states where shapes do not tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor

from promptsg_core.config import FieldValue, ModelConfig, grid_of
from promptsg_core.errors import CheckpointError, ModelError

# (image height, image width, stride) in patches, of published models.
_LAYOUTS = (
    (16, 8, 1.0), (16, 8, 0.75), (16, 8, 0.6875), (24, 8, 1.0), (24, 8, 0.75), (16, 12, 1.0), (16, 16, 1.0),
    (16, 16, 0.75), (32, 8, 1.0),
)  # fmt: skip
_HEAD_WIDTH = 64  # of CLIP's towers; the tensors do not tell the number of heads
_SMALLEST_TEXT_HEADS = 8  # narrow text towers keep the 8 heads of ViT-B/16's


@dataclass(frozen=True, kw_only=True)
class TensorSizes:
    """The fields of ModelConfig that follow from the shapes of a family-H state dict."""

    patch_size: int
    vision_width: int
    vision_layers: int
    embed_dim: int
    text_width: int
    text_layers: int
    context_length: int
    vocab_size: int
    inversion_widths: tuple[int, ...]
    inversion_affine: bool
    mim_layers: int
    mim_qkv_bias: bool
    num_classes: int


def infer_config(state: Mapping[str, Tensor], given: Mapping[str, FieldValue]) -> ModelConfig:
    """The configuration of a family-H state dict; `given` holds the ModelConfig fields that the user stated.

    Raises CheckpointError when a tensor that decides a size is missing. Raises ModelError when a stated field does not
    exist or contradicts the tensors, naming both values.
    """
    ModelConfig.check_names(given)
    sizes = sizes_of(state)
    known: dict[str, FieldValue] = asdict(sizes)
    for name, value in given.items():
        if name in known and known[name] != value:
            raise ModelError(f"{name} is {value} in the configuration, but the checkpoint's tensors say {known[name]}")
    rows = _shape(state, "image_encoder.positional_embedding")[0] - 1  # besides CLS
    image_size, stride = _layout(rows, sizes.patch_size, given)
    # Head counts are CLIP's, unless the user states others.
    assumed: dict[str, FieldValue] = {
        "vision_heads": max(1, sizes.vision_width // _HEAD_WIDTH),
        "text_heads": max(_SMALLEST_TEXT_HEADS, sizes.text_width // _HEAD_WIDTH),
    }
    return ModelConfig.from_fields({**assumed, **given, **known, "image_size": image_size, "stride": stride})


def sizes_of(state: Mapping[str, Tensor]) -> TensorSizes:
    """The sizes of a family-H state dict. Raises CheckpointError when a tensor that decides one is missing."""
    width, _, patch, _ = _shape(state, "image_encoder.conv1.weight", 4)
    vocabulary, text_width = _shape(state, "prompt_composer.token_embedding.weight")
    return TensorSizes(
        patch_size=patch,
        vision_width=width,
        vision_layers=_count(state, r"^image_encoder\.transformer\.resblocks\.(\d+)\."),
        embed_dim=_shape(state, "image_encoder.proj")[1],
        text_width=text_width,
        text_layers=_count(state, r"^text_encoder\.transformer\.resblocks\.(\d+)\."),
        context_length=_shape(state, "text_encoder.positional_embedding")[0],
        vocab_size=vocabulary,
        inversion_widths=tuple(_shape(state, f"inversion.fc{n}.weight")[0] for n in (1, 2)),
        inversion_affine="inversion.bn.weight" in state,
        mim_layers=_count(state, r"^mim\.post_blocks\.(\d+)\."),
        mim_qkv_bias="mim.post_blocks.0.attn.qkv.bias" in state,
        num_classes=_shape(state, "classifier_proj.weight")[0],
    )


def _layout(rows: int, patch: int, given: Mapping[str, FieldValue]) -> tuple[tuple[int, int], int]:
    """(image size, stride) whose grid has as many patches as the positional embedding has rows besides CLS."""
    if "image_size" in given or "stride" in given:
        size, stride = _pair(given.get("image_size", (16 * patch, 8 * patch))), _integer(given.get("stride", patch))
        h, w = grid_of(size, patch, stride)
        if h * w == rows:
            return size, stride
        raise ModelError(
            f"image size {size} with stride {stride} gives a grid of {h}x{w} = {h * w} patches, "
            f"but the checkpoint's positional embedding has {rows}"
        )
    fitting = _fitting(rows, patch)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        listed = " or ".join(f"{_by(grid_of(size, patch, step))} (images of {_by(size)})" for size, step in fitting)
        (height, width), _ = fitting[0]
        raise ModelError(
            f"the positional embedding has {rows} patches, which are {listed}: say which by --image-size "
            f"{height}x{width} or INPUT.SIZE_TEST '[{height}, {width}]'"
        )
    raise ModelError(
        f"the positional embedding has {rows} patches, which is no known layout: give the image size and the stride "
        f"(for example INPUT.SIZE_TEST '[256, 128]' MODEL.STRIDE_SIZE '[16, 16]')"
    )


def _fitting(rows: int, patch: int) -> list[tuple[tuple[int, int], int]]:
    """(image size, stride) of the published layouts with so many patches."""
    found = []
    for tall, wide, step in _LAYOUTS:
        size, stride = (tall * patch, wide * patch), max(1, round(step * patch))
        h, w = grid_of(size, patch, stride)
        if h * w == rows and (size, stride) not in found:
            found.append((size, stride))
    return found


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _shape(state: Mapping[str, Tensor], key: str, dims: int = 2) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(f"the tensor {key} is missing")
    shape = tuple(state[key].shape)
    if len(shape) != dims or 0 in shape:
        raise CheckpointError(f"the tensor {key} has shape {shape}, expected {dims} dimensions, none of them 0")
    return shape


def _pair(value: FieldValue) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(type(v) is int for v in value):
        raise ModelError(f"image_size is {value!r}, expected (height, width)")
    return int(value[0]), int(value[1])


def _integer(value: FieldValue) -> int:
    if type(value) is not int or value < 1:
        raise ModelError(f"stride is {value!r}, expected a number of pixels")
    return value


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = {int(found[1]) for key in state if (found := re.match(pattern, key))}
    return len(numbers)
