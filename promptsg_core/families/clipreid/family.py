"""How a CLIP-ReID checkpoint is told and read: what follows from its tensors, and what must be stated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from promptsg_core.config import FamilyConfig, FieldValue
from promptsg_core.errors import CheckpointError
from promptsg_core.families.clipreid.config import BEGINNING, ClipReidConfig
from promptsg_core.families.clipreid.model import ClipReid
from promptsg_core.families.family import ReadTensors, Signature, Stated
from promptsg_core.families.shapes import (
    camera_rows_of,
    count_of,
    heads_of,
    layout_of,
    refuse_contradictions,
    shape_of,
    text_heads_of,
)
from promptsg_core.model import AnyModel


@dataclass(frozen=True)
class ClipReidFamily:
    """CLIP-ReID, or its baseline, which has no prompts."""

    name: str
    signature: Signature
    config: type[FamilyConfig] = ClipReidConfig
    source: str = "github.com/Syliz517/CLIP-ReID"

    def read(self, tensors: Mapping[str, Tensor], stated: Stated) -> ReadTensors:
        """The configuration that follows from the shapes and from what is stated; all tensors are used."""
        return ReadTensors(config=_infer(tensors, stated.fields), tensors=dict(tensors))

    def build(self, config: FamilyConfig) -> AnyModel:
        """A model with random weights."""
        return ClipReid(cast(ClipReidConfig, config))


def _infer(tensors: Mapping[str, Tensor], given: Mapping[str, FieldValue]) -> ClipReidConfig:
    width, _, patch, _ = shape_of(tensors, "image_encoder.conv1.weight", 4)
    known: dict[str, FieldValue] = {
        "patch_size": patch,
        "vision_width": width,
        "vision_layers": count_of(tensors, r"^image_encoder\.transformer\.resblocks\.(\d+)\."),
        "embed_dim": shape_of(tensors, "image_encoder.proj")[1],
        "num_classes": shape_of(tensors, "classifier_proj.weight")[0],
        "camera_rows": _camera_rows(tensors, given),
        "stage_1": _never_trained(tensors, "bottleneck"),
    }
    assumed: dict[str, FieldValue] = {"vision_heads": heads_of(width)}
    if "prompt_learner.cls_ctx" in tensors:
        prompts = _prompt_sizes(tensors)
        known |= prompts
        assumed["text_heads"] = text_heads_of(prompts["text_width"])
    assumed["sie_camera"] = bool(known["camera_rows"])
    refuse_contradictions(given, known)
    rows = shape_of(tensors, "image_encoder.positional_embedding")[0] - 1  # besides CLS
    image_size, stride = layout_of(rows, patch, given)
    return ClipReidConfig.from_fields({**assumed, **given, **known, "image_size": image_size, "stride": stride})


def _prompt_sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes of the learned prompts and of their tower. Raises CheckpointError where no text can be made of them."""
    _, words, width = shape_of(tensors, "prompt_learner.cls_ctx", 3)
    layers = count_of(tensors, r"^text_encoder\.transformer\.resblocks\.(\d+)\.")
    positions = shape_of(tensors, "text_encoder.positional_embedding")[0]
    if not layers:
        raise CheckpointError("there are learned prompts (prompt_learner.cls_ctx), and the text tower has no blocks")
    if BEGINNING + words >= positions:
        raise CheckpointError(
            f"prompt_learner.cls_ctx has {words} words for each class, which do not fit between a beginning of "
            f"{BEGINNING} tokens and an end: the text tower has {positions} positions"
        )
    return {"text_width": width, "text_layers": layers, "context_length": positions, "prompt_length": words}


def _camera_rows(tensors: Mapping[str, Tensor], given: Mapping[str, FieldValue]) -> int:
    if given.get("sie_camera") is True and "cv_embed" not in tensors:
        raise CheckpointError("MODEL.SIE_CAMERA is stated, and the checkpoint has no camera embedding (cv_embed)")
    return camera_rows_of(tensors, "cv_embed", given, dims=2, with_views="cameras and views together")


def _never_trained(tensors: Mapping[str, Tensor], norm: str) -> bool:
    """Whether a batch norm has never seen a batch: its counter is 0, and its statistics are those it was made with.

    Files without the counter are not accused. Nor are weights that a script put into a new model, whose counter may
    be 0 too. What has another shape than it should is found later.
    """
    made = {"num_batches_tracked": 0, "running_mean": 0, "running_var": 1}
    found = {name: tensors.get(f"{norm}.{name}") for name in made}
    return all(tensor is not None and bool((tensor == made[name]).all()) for name, tensor in found.items())


_NO_RELATIVE = (r"^mim\.", r"^interaction\.", r"^cross_guidance\.", r"^cff\.")
FAMILIES = (
    ClipReidFamily(
        "CLIP-ReID",
        Signature(has=(r"^prompt_learner\.cls_ctx$", r"^image_encoder\.conv1\.weight$"), lacks=_NO_RELATIVE),
    ),
    ClipReidFamily(
        "CLIP-ReID's baseline",
        Signature(has=(r"^image_encoder\.proj$", r"^classifier_proj\.weight$"), lacks=(*_NO_RELATIVE, r"^prompt_")),
    ),
)
