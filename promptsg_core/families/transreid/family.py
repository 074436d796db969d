"""How a TransReID checkpoint is told and read: what follows from its tensors, and which of them are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from promptsg_core.config import FamilyConfig, FieldValue, check_name
from promptsg_core.errors import CheckpointError, ModelError
from promptsg_core.families.family import ReadTensors, Signature, Stated
from promptsg_core.families.shapes import (
    camera_rows_of,
    count_of,
    heads_of,
    layout_of,
    refuse_contradictions,
    shape_of,
)
from promptsg_core.families.transreid.config import BASE, DEIT_SMALL, SMALL, TYPES, TransReidConfig
from promptsg_core.families.transreid.model import TransReid
from promptsg_core.model import AnyModel

_SIGNATURE = Signature(has=(r"^base\.cls_token$", r"^base\.blocks\.0\.attn\.qkv\.weight$"))
_HEADS_WITHOUT_BIAS = 8  # of "vit_small", which alone has no bias of queries, keys and values
_SMALL_WIDTH = 384  # of DeiT-small
_USUAL_GRID = (16, 16)  # of 256 patches: vehicles, in images of 256x256


@dataclass(frozen=True)
class TransReidFamily:
    """TransReID's vision transformers."""

    name: str = "TransReID"
    signature: Signature = _SIGNATURE
    config: type[FamilyConfig] = TransReidConfig
    source: str = "github.com/damo-cv/TransReID"

    def read(self, tensors: Mapping[str, Tensor], stated: Stated) -> ReadTensors:
        """The configuration that follows from the shapes and from what is stated, and the tensors that are used."""
        config = _infer(tensors, stated.fields)
        unused = _unused(tensors, config)
        return ReadTensors(config=config, tensors={key: t for key, t in tensors.items() if key not in unused})

    def build(self, config: FamilyConfig) -> AnyModel:
        """A model with random weights."""
        return TransReid(cast(TransReidConfig, config))


def _infer(tensors: Mapping[str, Tensor], given: Mapping[str, FieldValue]) -> TransReidConfig:
    width, _, patch, _ = shape_of(tensors, "base.patch_embed.proj.weight", 4)
    rows, has_bias = _camera_rows(tensors, given), "base.blocks.0.attn.qkv.bias" in tensors
    known: dict[str, FieldValue] = {
        "patch_size": patch,
        "vision_width": width,
        "vision_layers": count_of(tensors, r"^base\.blocks\.(\d+)\."),
        "mlp_width": shape_of(tensors, "base.blocks.0.mlp.fc1.weight")[0],
        "qkv_bias": has_bias,
        "num_classes": shape_of(tensors, "classifier.weight")[0],
        "camera_rows": rows,
        "sie_camera": rows > 0,
        "sie_view": False,
        "jpm": any(key.startswith(("b1.", "b2.")) for key in tensors),
    }
    refuse_contradictions(given, known)
    known["transformer_type"] = _type_of(has_bias, width, given)
    heads = heads_of(width) if has_bias else _HEADS_WITHOUT_BIAS
    image_size, stride = layout_of(shape_of(tensors, "base.pos_embed", 3)[1] - 1, patch, given, _USUAL_GRID)
    return TransReidConfig.from_fields(
        {"vision_heads": heads, **given, **known, "image_size": image_size, "stride": stride}
    )


def _camera_rows(tensors: Mapping[str, Tensor], given: Mapping[str, FieldValue]) -> int:
    views = "views or of cameras and views together"
    return camera_rows_of(tensors, "base.sie_embed", given, dims=3, with_views=views)


def _type_of(has_bias: bool, width: int, given: Mapping[str, FieldValue]) -> str:
    """The training code's name of the transformer. Raises ModelError for one that is not read, and a contradiction."""
    stated = given.get("transformer_type")
    if stated is not None:
        check_name("transformer_type", str(stated), TYPES)
        if (stated == SMALL) == has_bias:
            raise ModelError(
                f"transformer_type is {stated} in the configuration, but the checkpoint has "
                f"{'a' if has_bias else 'no'} bias of queries, keys and values: {SMALL} alone has none"
            )
        return str(stated)
    if not has_bias:
        return SMALL
    return DEIT_SMALL if width == _SMALL_WIDTH else BASE


def _unused(tensors: Mapping[str, Tensor], config: TransReidConfig) -> set[str]:
    """The classifier of ImageNet and, with JPM, its last block and norm: b1 and b2 were trained in their place.

    Raises CheckpointError where these are missing: the number of blocks would be another.
    """
    of_imagenet = {"base.fc.weight", "base.fc.bias"}
    if not config.jpm:
        return of_imagenet
    last = f"base.blocks.{config.vision_layers - 1}."
    replaced = {last + key.removeprefix("b1.0.") for key in tensors if key.startswith("b1.0.")}
    replaced |= {"base.norm.weight", "base.norm.bias"}
    if missing := sorted(replaced - tensors.keys()):
        raise CheckpointError(f"the tensor {missing[0]} is missing")
    return of_imagenet | replaced


FAMILIES = (TransReidFamily(),)
