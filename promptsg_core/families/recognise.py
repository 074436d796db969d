"""Which implementation of PromptSG a state dict comes from, and its tensors under the names of family H."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from promptsg_core.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A family that cannot give these maps: a pattern that one of its keys matches, its name, and the reason."""

    pattern: str
    family: str
    reason: str


# Tried in this order; the first pattern that matches a key decides.
REFUSALS = (
    Refusal(
        pattern=r"^image_encoder\.layer1\.",
        family="RN50",
        reason="a ResNet-50 tower, whose MIM projections were never trained",
    ),
    Refusal(pattern=r"^cross_guidance\.", family="A, B or C", reason="cross guidance instead of a MIM"),
    Refusal(pattern=r"^interaction\.", family="F or G", reason="its maps are uniform or do not lie on patches"),
    Refusal(
        pattern=r"^mim\.(cross_norm\.|.*mlp\.2\.)",
        family="D",
        reason="its MIM does not re-weight patches and reads another token sequence",
    ),
    Refusal(pattern=r"^prompt_learner\.cls_ctx", family="CLIP-ReID", reason="it has no MIM"),
)

# Not loaded, since they follow from the template; files hold nothing, an empty tensor or the 77 ids here.
_BUFFERS = re.compile(r"^prompt_composer\.(tokenized|embed)_(composed|simplified)$")
# The model discards the output of cross-attention, so these are never used.
_UNUSED = re.compile(r"^mim\.cross_attn\.(v_proj|out_proj)\.")

_FROM_E = (
    (re.compile(r"^(mim\.post_blocks\.\d+)\.ln1\."), r"\1.norm1."),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.ln2\."), r"\1.norm2."),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.attn\.in_proj_weight$"), r"\1.attn.qkv.weight"),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.attn\.in_proj_bias$"), r"\1.attn.qkv.bias"),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.attn\.out_proj\."), r"\1.attn.proj."),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.mlp\.0\."), r"\1.mlp.fc1."),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.mlp\.3\."), r"\1.mlp.fc2."),
)


def strip_parallel_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the `module.` that DataParallel puts before every key; mixed names are left as they are."""
    if state and all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return dict(state)


def family_of(keys: Iterable[str]) -> str:
    """The family, "H" or "E", of a checkpoint with these keys.

    Raises CheckpointError for a family that cannot give these maps, with its name, and for keys of no known family.
    """
    names = list(keys)
    for refusal in REFUSALS:
        if any(re.search(refusal.pattern, name) for name in names):
            raise CheckpointError(f"a checkpoint of family {refusal.family} is not supported: {refusal.reason}")
    if "mim.cross_attn.q_proj.weight" in names:
        return "H"
    if "mim.cross_attn.in_proj_weight" in names:
        return "E"
    shown = ", ".join(sorted(names)[:4]) or "none"
    raise CheckpointError(
        f"not a PromptSG checkpoint: no mim.cross_attn weights among its {len(names)} keys ({shown}, ...)"
    )


def to_family_h(state: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """The tensors of family H or E under family H's names, without the buffers that are recomputed or never used."""
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if family == "E" and key in ("mim.cross_attn.in_proj_weight", "mim.cross_attn.in_proj_bias"):
            kind = key.rsplit("_", 1)[1]
            q, k, _ = tensor.chunk(3)
            converted[f"mim.cross_attn.q_proj.{kind}"], converted[f"mim.cross_attn.k_proj.{kind}"] = q, k
        elif not _BUFFERS.match(key) and not _UNUSED.match(key):
            converted[_rename(key) if family == "E" else key] = tensor
    return converted


def _rename(key: str) -> str:
    for pattern, replacement in _FROM_E:
        key = pattern.sub(replacement, key)
    return key
