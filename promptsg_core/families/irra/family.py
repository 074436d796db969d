"""How an IRRA checkpoint is told and read: what follows from its tensors, and which of them maps need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from promptsg_core.config import FamilyConfig, FieldValue
from promptsg_core.families.family import ReadTensors, Signature, Stated, without
from promptsg_core.families.irra.config import IrraConfig
from promptsg_core.families.irra.model import Irra
from promptsg_core.families.shapes import count_of, heads_of, layout_of, refuse_contradictions, shape_of, text_heads_of
from promptsg_core.model import AnyModel

_USUAL_GRID = (24, 8)  # images of 384x128
# Of the blocks that guess masked words. They come after the cross-attention, so no map depends on them.
_BLOCK = r"(?:attn\.in_proj_(?:weight|bias)|(?:attn\.out_proj|ln_1|ln_2|mlp\.c_fc|mlp\.c_proj)\.(?:weight|bias))"
_UNUSED = (
    r"^cross_attn\.out_proj\.(?:weight|bias)$",
    r"^ln_post\.(?:weight|bias)$",
    rf"^cross_modal_transformer\.resblocks\.\d+\.{_BLOCK}$",
    r"^mlm_head\.(?:dense|ln|fc)\.(?:weight|bias)$",
)
_SIGNATURE = Signature(has=(r"^base_model\.visual\.conv1\.weight$", r"^base_model\.token_embedding\."))


@dataclass(frozen=True)
class IrraFamily:
    """IRRA, trained with any of its losses."""

    name: str = "IRRA"
    signature: Signature = _SIGNATURE
    config: type[FamilyConfig] = IrraConfig
    source: str = "github.com/anosorae/IRRA"

    def read(self, tensors: Mapping[str, Tensor], stated: Stated) -> ReadTensors:
        """The configuration that follows from the shapes and from what is stated, and the tensors that maps need."""
        return ReadTensors(config=_infer(tensors, stated.fields), tensors=without(tensors, _UNUSED))

    def build(self, config: FamilyConfig) -> AnyModel:
        """A model with random weights."""
        return Irra(cast(IrraConfig, config))


def _infer(tensors: Mapping[str, Tensor], given: Mapping[str, FieldValue]) -> IrraConfig:
    width, _, patch, _ = shape_of(tensors, "base_model.visual.conv1.weight", 4)
    vocabulary, text_width = shape_of(tensors, "base_model.token_embedding.weight")
    joint = shape_of(tensors, "base_model.visual.proj")[1]
    known: dict[str, FieldValue] = {
        "patch_size": patch,
        "vision_width": width,
        "vision_layers": count_of(tensors, r"^base_model\.visual\.transformer\.resblocks\.(\d+)\."),
        "embed_dim": joint,
        "text_width": text_width,
        "text_layers": count_of(tensors, r"^base_model\.transformer\.resblocks\.(\d+)\."),
        "context_length": shape_of(tensors, "base_model.positional_embedding")[0],
        "vocab_size": vocabulary,
        "num_classes": shape_of(tensors, "classifier.weight")[0] if "classifier.weight" in tensors else 0,
        "cross_heads": heads_of(joint) if "cross_attn.in_proj_weight" in tensors else 0,
    }
    assumed: dict[str, FieldValue] = {
        "vision_heads": heads_of(width),
        "text_heads": text_heads_of(text_width),
    }
    refuse_contradictions(given, known)
    rows = shape_of(tensors, "base_model.visual.positional_embedding")[0] - 1  # besides CLS
    image_size, stride = layout_of(rows, patch, given, usual=_USUAL_GRID)
    return IrraConfig.from_fields({**assumed, **given, **known, "image_size": image_size, "stride": stride})


FAMILIES = (IrraFamily(),)
