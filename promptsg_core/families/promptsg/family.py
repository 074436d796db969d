"""Families H and E of PromptSG: one model, two sets of names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from promptsg_core.config import FamilyConfig
from promptsg_core.families.family import ReadTensors, Signature, Stated
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.infer import infer_config
from promptsg_core.families.promptsg.names import check_computation, to_family_h
from promptsg_core.settings import MAP_MODES

if TYPE_CHECKING:
    from torch import Tensor

    from promptsg_core.model import AnyModel


@dataclass(frozen=True)
class PromptSGFamily:
    """One of the two; `letter` is H or E."""

    letter: str
    signature: Signature
    config: type[FamilyConfig] = ModelConfig
    source: str = "PromptSG's public re-implementations, and `promptsg train`"

    @property
    def name(self) -> str:
        """The letter alone, as runs and scripts know it."""
        return self.letter

    def read(self, tensors: Mapping[str, Tensor], stated: Stated) -> ReadTensors:
        """The configuration, and the tensors under family H's names."""
        # `promptsg train` computes what is computed here, and says in the file that it wrote it.
        check_computation(tensors, self.letter, tuple(MAP_MODES) if stated.own else stated.modes)
        state = to_family_h(tensors, self.letter)
        return ReadTensors(config=infer_config(state, stated.fields), tensors=state)

    def build(self, config: FamilyConfig) -> AnyModel:
        """A PromptSG with random weights."""
        from promptsg_core.families.promptsg.model import PromptSG

        return cast("AnyModel", PromptSG(cast(ModelConfig, config)))


FAMILIES = (
    PromptSGFamily("H", Signature(has=(r"^mim\.cross_attn\.q_proj\.weight$",))),
    PromptSGFamily("E", Signature(has=(r"^mim\.cross_attn\.in_proj_weight$",))),
)
