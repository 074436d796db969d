"""Starting weights from CLIP: a state dict in OpenAI's or open_clip's names into the towers of a PromptSG.

The towers compute with QuickGELU, as OpenAI's weights require (open_clip calls these architectures `-quickgelu`).
Weights that were trained with another GELU have the same names and shapes: the file does not tell which they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from promptsg_core.config import FieldValue
from promptsg_core.errors import CheckpointError
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.families.shapes import heads_of
from promptsg_core.files.envelope import read_weights

_POSITIONS = "image_encoder.positional_embedding"
_EMBEDDING = "prompt_composer.token_embedding.weight"
_TOWERS = ("image_encoder.", "text_encoder.", "prompt_composer.")

# Not part of the towers: the temperature, the scalars in a traced model, and the causal mask, which is recomputed.
_NO_WEIGHTS = re.compile(r"^(text\.)?(logit_scale|logit_bias|input_resolution|context_length|vocab_size|attn_mask)$")
# How CLIP's names, and open_clip's with the text tower in a module of its own, become PromptSG's.
_NAMES = (
    (re.compile(r"^visual\."), "image_encoder."),
    (re.compile(r"^(text\.)?token_embedding\."), "prompt_composer.token_embedding."),
    (re.compile(r"^(text\.)?(?=transformer\.|positional_embedding$|ln_final\.|text_projection$)"), "text_encoder."),
)
# Names that show an architecture that does not fit these towers, and what it is.
_OTHERS = (
    (r"^(vision_model|text_model)\.", "it has Hugging Face's names: save the weights under OpenAI's or open_clip's"),
    (r"^visual\.layer1\.", "its image tower is a ResNet"),
    (r"^visual\.trunk\.", "its image tower is a timm model"),
    (r"\.ls_1\.gamma$", "its blocks have layer scale"),
    (r"^image_encoder\.", "it is a PromptSG checkpoint, not CLIP's"),
)


def read_clip(path: str | Path) -> dict[str, Tensor]:
    """The float32 tensors of a CLIP state dict (.pth, .pt, .safetensors) under the names of PromptSG's towers.

    Raises CheckpointError, naming the file, for a TorchScript archive, another architecture or an unknown name.
    """
    path = Path(path)
    weights = read_weights(path)
    try:
        return to_tower_names(weights.tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def to_tower_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's tensors as float32 under PromptSG's names. Raises CheckpointError for a name that has no place there."""
    for pattern, reason in _OTHERS:
        if any(re.search(pattern, key) for key in state):
            raise CheckpointError(f"not a CLIP state dict that fits: {reason}")
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not _NO_WEIGHTS.match(key):
            renamed[_rename(key)] = tensor.float()
    for wanted in ("image_encoder.conv1.weight", _POSITIONS, "image_encoder.proj", _EMBEDDING):
        if wanted not in renamed:
            raise CheckpointError(f"not a CLIP state dict: none of its {len(state)} tensors is {wanted}")
    return renamed


def clip_config(state: Mapping[str, Tensor], **given: FieldValue) -> ModelConfig:
    """The configuration of a PromptSG with these towers (names as `read_clip` gives); `given` are further fields.

    `image_size`, `stride` and `num_classes` do not follow from the tensors. The default stride is the patch size.
    Raises ModelError when they do not fit.
    """
    width, _, patch, _ = state["image_encoder.conv1.weight"].shape
    vocabulary, text_width = state[_EMBEDDING].shape
    sizes: dict[str, FieldValue] = {
        "patch_size": patch,
        "stride": patch,
        "vision_width": width,
        "vision_layers": _blocks(state, "image_encoder"),
        "vision_heads": heads_of(width),
        "embed_dim": state["image_encoder.proj"].shape[1],
        "text_width": text_width,
        "text_layers": _blocks(state, "text_encoder"),
        "text_heads": heads_of(text_width),
        "context_length": state["text_encoder.positional_embedding"].shape[0],
        "vocab_size": vocabulary,
    }
    return ModelConfig.from_fields({**sizes, **given})


def load_clip(model: PromptSG, state: Mapping[str, Tensor]) -> None:
    """Copies CLIP's tensors (names as `read_clip` gives) into the towers of a model and changes nothing else.

    The image tower's positional embedding is interpolated to the model's grid. Raises CheckpointError when a tensor is
    missing, is not part of the towers, or has another shape.
    """
    state = {**state, _POSITIONS: resize_positions(state[_POSITIONS], model.grid)}
    own = model.state_dict()
    towers = {key: tensor for key, tensor in own.items() if key.startswith(_TOWERS)}
    if missing := sorted(towers.keys() - state.keys()):
        raise CheckpointError(f"the CLIP state dict lacks {missing[0]} and {len(missing) - 1} more")
    if unexpected := sorted(state.keys() - towers.keys()):
        raise CheckpointError(f"the CLIP state dict has {unexpected[0]}, which the towers do not have")
    for key, tensor in towers.items():
        if tensor.shape != state[key].shape:
            found, expected = tuple(state[key].shape), tuple(tensor.shape)
            raise CheckpointError(f"CLIP's {key} is {found}, expected {expected}")
    with torch.no_grad():
        for key, tensor in towers.items():
            tensor.copy_(state[key])


def resize_positions(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1+m, D) of a square grid -> (1+h*w, D): the patches' rows interpolated bilinearly, CLS's row kept.

    CLIP-ReID does the same for person crops (arXiv:2211.13977). An embedding that has the grid's number of rows is
    returned as it is. Raises CheckpointError when the rows do not form a square.
    """
    h, w = grid
    rows = len(embedding) - 1
    side = math.isqrt(rows)
    if (side, side) == (h, w) or (side * side != rows and rows == h * w):
        return embedding
    if side * side != rows:
        raise CheckpointError(f"the positional embedding has {rows} patches: no square grid to interpolate to {h}x{w}")
    cls, patches = embedding[:1], embedding[1:]
    square = torch.unflatten(patches.T, 1, (side, side)).unsqueeze(0)
    resized = F.interpolate(square, size=(h, w), mode="bilinear", align_corners=False)
    return torch.cat([cls, resized.squeeze(0).flatten(1).T])


def _rename(key: str) -> str:
    for pattern, replacement in _NAMES:
        name, count = pattern.subn(replacement, key)
        if count:
            return name
    raise CheckpointError(f"not a CLIP state dict that fits: no tower has a place for {key}")


def _blocks(state: Mapping[str, Tensor], tower: str) -> int:
    pattern = re.compile(rf"^{tower}\.transformer\.resblocks\.(\d+)\.")
    return len({found[1] for key in state if (found := pattern.match(key))})
