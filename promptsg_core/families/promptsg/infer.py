"""ModelConfig from the shapes of a checkpoint's tensors, and from what the user states where shapes do not tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor

from promptsg_core.config import FieldValue
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.shapes import count_of, heads_of, layout_of, refuse_contradictions, shape_of, text_heads_of


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
    refuse_contradictions(given, known)
    rows = shape_of(state, "image_encoder.positional_embedding")[0] - 1  # besides CLS
    image_size, stride = layout_of(rows, sizes.patch_size, given)
    # Head counts are CLIP's, unless the user states others.
    assumed: dict[str, FieldValue] = {
        "vision_heads": heads_of(sizes.vision_width),
        "text_heads": text_heads_of(sizes.text_width),
    }
    return ModelConfig.from_fields({**assumed, **given, **known, "image_size": image_size, "stride": stride})


def sizes_of(state: Mapping[str, Tensor]) -> TensorSizes:
    """The sizes of a family-H state dict. Raises CheckpointError when a tensor that decides one is missing."""
    width, _, patch, _ = shape_of(state, "image_encoder.conv1.weight", 4)
    vocabulary, text_width = shape_of(state, "prompt_composer.token_embedding.weight")
    return TensorSizes(
        patch_size=patch,
        vision_width=width,
        vision_layers=count_of(state, r"^image_encoder\.transformer\.resblocks\.(\d+)\."),
        embed_dim=shape_of(state, "image_encoder.proj")[1],
        text_width=text_width,
        text_layers=count_of(state, r"^text_encoder\.transformer\.resblocks\.(\d+)\."),
        context_length=shape_of(state, "text_encoder.positional_embedding")[0],
        vocab_size=vocabulary,
        inversion_widths=tuple(shape_of(state, f"inversion.fc{n}.weight")[0] for n in (1, 2)),
        inversion_affine="inversion.bn.weight" in state,
        mim_layers=count_of(state, r"^mim\.post_blocks\.(\d+)\."),
        mim_qkv_bias="mim.post_blocks.0.attn.qkv.bias" in state,
        num_classes=shape_of(state, "classifier_proj.weight")[0],
    )
