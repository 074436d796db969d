"""The names of both implementations of PromptSG, families H and E, and what shows that a map was another one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from promptsg_core.errors import CheckpointError
from promptsg_core.settings import MAP_MODES

# Not loaded, since they follow from the template; files hold nothing, an empty tensor or the 77 ids here.
_BUFFERS = re.compile(r"^prompt_composer\.(tokenized|embed)_(composed|simplified)$")
# The model discards the output of cross-attention, so these are never used.
_UNUSED = re.compile(r"^mim\.cross_attn\.(v_proj|out_proj)\.")

_POST_BIAS = re.compile(r"^mim\.post_blocks\.\d+\.attn\.qkv\.bias$")

_FROM_E = (
    (re.compile(r"^(mim\.post_blocks\.\d+)\.ln1\."), r"\1.norm1."),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.ln2\."), r"\1.norm2."),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.attn\.in_proj_weight$"), r"\1.attn.qkv.weight"),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.attn\.in_proj_bias$"), r"\1.attn.qkv.bias"),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.attn\.out_proj\."), r"\1.attn.proj."),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.mlp\.0\."), r"\1.mlp.fc1."),
    (re.compile(r"^(mim\.post_blocks\.\d+)\.mlp\.3\."), r"\1.mlp.fc2."),
)


def check_computation(state: Mapping[str, Tensor], family: str, stated_modes: Collection[str] = ()) -> None:
    """Refuses checkpoints whose names are family H's or E's and whose map was another computation in training.

    `stated_modes` are the keys of MAP_MODES that the user's settings state, each with the value that is computed here.
    Raises CheckpointError with the tensors that show it.
    """
    if family == "E" and (used := _attention_that_is_used(state)):
        raise CheckpointError(
            f"{' and '.join(used)} {'is' if len(used) == 1 else 'are'} not 0: not family E, which discards what its "
            "attention gathers, but the variant of two commits of February 2026 with the same names. There the text "
            "attends to CLS and patches and the result is added to CLS, so its maps and features are others"
        )
    if family == "H" and any(_POST_BIAS.match(key) for key in state):
        missing = [key for key in MAP_MODES if key not in stated_modes]
        if missing:
            raise CheckpointError(
                "mim.post_blocks have attn.qkv.bias, as checkpoints of IADT's line do, which were trained with other "
                f"modes; if this one was not, state it in --model-settings or as KEY VALUE: {_as_words(missing)}"
            )


def _attention_that_is_used(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the parts of a family-E MIM that stay exactly 0 in training where the attention's output is unused."""
    found = []
    bias = state.get("mim.cross_attn.in_proj_bias")
    if bias is not None and bias.ndim == 1 and bool(bias[len(bias) // 3 * 2 :].count_nonzero()):
        found.append("the value third of mim.cross_attn.in_proj_bias")
    out = state.get("mim.cross_attn.out_proj.bias")
    if out is not None and bool(out.count_nonzero()):
        found.append("mim.cross_attn.out_proj.bias")
    return found


def _as_words(keys: Sequence[str]) -> str:
    return " ".join(f"{key} {str(MAP_MODES[key]).lower()}" for key in keys)


def to_family_h(state: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """The tensors of family H or E under family H's names, without the buffers that are recomputed or never used.

    Raises CheckpointError for a joint projection that does not divide into three.
    """
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if family == "E" and key in ("mim.cross_attn.in_proj_weight", "mim.cross_attn.in_proj_bias"):
            kind = key.rsplit("_", 1)[1]
            if tensor.ndim == 0 or len(tensor) % 3:
                raise CheckpointError(f"the tensor {key} has shape {tuple(tensor.shape)}: not queries, keys and values")
            q, k, _ = tensor.chunk(3)
            converted[f"mim.cross_attn.q_proj.{kind}"], converted[f"mim.cross_attn.k_proj.{kind}"] = q, k
        elif not _BUFFERS.match(key) and not _UNUSED.match(key):
            converted[_rename(key) if family == "E" else key] = tensor
    return converted


def _rename(key: str) -> str:
    for pattern, replacement in _FROM_E:
        key = pattern.sub(replacement, key)
    return key
