"""What the loader must know of a family of checkpoints: how to tell it, how to read it, and its model.

A further family is one module like those beside this one, and a line in the registry, or an entry point of another
package.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from promptsg_core.config import FamilyConfig, FieldValue

if TYPE_CHECKING:
    from torch import Tensor

    from promptsg_core.model import AnyModel


@dataclass(frozen=True, kw_only=True)
class Signature:
    """How the keys of a family look: every pattern of `has` must match a key, and none of `lacks` may."""

    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()

    @property
    def examples(self) -> tuple[str, ...]:
        """The patterns of `has` as people read them."""
        return tuple(re.sub(r"[\^$\\]", "", pattern) for pattern in self.has)

    def fits(self, keys: Iterable[str]) -> bool:
        """Whether the keys are this family's."""
        names = list(keys)

        def found(pattern: str) -> bool:
            return any(re.search(pattern, name) for name in names)

        return all(found(pattern) for pattern in self.has) and not any(found(pattern) for pattern in self.lacks)


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What the user states of a checkpoint: fields of its configuration, and keys of settings with the value computed.

    Where `own` the file was written by `promptsg train`, whose metadata are among the fields.
    """

    fields: Mapping[str, FieldValue]
    modes: frozenset[str] = frozenset()
    own: bool = False


@dataclass(frozen=True, kw_only=True)
class ReadTensors:
    """A configuration, and the tensors under the names of its model's submodules.

    Tensors that the family has and the model does not need are left out; any other that the model does not have is a
    reason to refuse the file.
    """

    config: FamilyConfig
    tensors: dict[str, Tensor]


class Family(Protocol):
    """A family of checkpoints."""

    @property
    def name(self) -> str:
        """What it is called, for people."""

    @property
    def source(self) -> str:
        """Whose code writes such checkpoints."""

    @property
    def signature(self) -> Signature:
        """How its keys look."""

    @property
    def config(self) -> type[FamilyConfig]:
        """The type of its configurations."""

    def read(self, tensors: Mapping[str, Tensor], stated: Stated) -> ReadTensors:
        """The configuration that follows from a state dict and from what is stated, and the model's tensors.

        The configuration is a `config`, no subclass of it or parent of it: runs are read back by its type.
        Raises CheckpointError and ModelError where they do not fit each other or are not computed here.
        """

    def build(self, config: FamilyConfig) -> AnyModel:
        """A model of this configuration, with random weights."""


def without(tensors: Mapping[str, Tensor], unused: Collection[str]) -> dict[str, Tensor]:
    """The tensors whose names match none of the patterns."""
    patterns = [re.compile(pattern) for pattern in unused]
    return {key: tensor for key, tensor in tensors.items() if not any(pattern.search(key) for pattern in patterns)}
