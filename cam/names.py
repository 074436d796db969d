"""The syntax of map names, as in configurations, HDF5 and Parquet (no torch).

    gradcam++/mim         a gradient method on a layer of the model
    rollout               a method over all blocks of the model
    mim_attention         a map that the model computes itself
    mim_attention:bag     the same for a named prompt
    mim_attention#3       one head of it, counted from 0, where a run stored its heads

The methods are known here. Which layers and which maps of its own a model has, the model alone knows: see
`cam.available`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cam.errors import CamError
from cam.suggest import did_you_mean

GRADIENT_METHODS = ("gradcam", "gradcam++", "hirescam")
RELEVANCE_METHODS = ("rollout", "chefer", "legrad")
METHODS = (*GRADIENT_METHODS, *RELEVANCE_METHODS)
ATTENTION = "mim_attention"  # PromptSG's own map, one of the default maps
LAYER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
NATIVE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
PROMPT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
HEAD = "#"  # before the number of a head
_HEAD_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")


def check_methods(texts: Sequence[str]) -> None:
    """Raises CamError unless each is a method, `all`, or has the form of a model's own map; a near miss is named."""
    for text in texts:
        if text in (*METHODS, "all"):
            continue
        near = did_you_mean(text, METHODS, cutoff=0.75)
        if near or not NATIVE_NAME.fullmatch(text):
            hint = near or "."
            raise CamError(f"unknown method {text!r}{hint} Methods are {', '.join(METHODS)}, or a map of the model")


@dataclass(frozen=True)
class MapName:
    """The name of one map.

    `method` is one of METHODS, or the name of a map that the model computes itself. Only the gradient methods have a
    `layer`. Only the model's own maps have a `prompt`, the name of a further prompt, or a `head`, counted from 0: a
    head is read from a run that stored all heads, and never computed alone.
    """

    method: str
    layer: str | None = None
    prompt: str | None = None
    head: int | None = None

    def __str__(self) -> str:
        if self.head is not None:
            return f"{self.method}{HEAD}{self.head}"
        if self.prompt is not None:
            return f"{self.method}:{self.prompt}"
        return self.method if self.layer is None else f"{self.method}/{self.layer}"

    @property
    def is_native(self) -> bool:
        """Whether the model computes the map itself."""
        return self.method not in METHODS

    @property
    def is_attention(self) -> bool:
        """Whether its values are weights of attention, whose sum over the patches is at most 1."""
        return self.is_native and self.method.endswith("_attention")

    @property
    def column(self) -> str:
        """The name as the start of an SQL column: `gradcam++/mim` is `gradcampp_mim`."""
        return column_of(str(self))

    @property
    def needs_target(self) -> bool:
        """Whether the map depends on the score that is differentiated."""
        return self.method in METHODS and self.method != "rollout"

    @classmethod
    def parse(cls, text: str) -> MapName:
        """The name that a text spells. Whether a model has such a map is not checked.

        Raises CamError on wrong syntax and on an unknown method, naming the valid ones and the nearest.
        """
        if text in RELEVANCE_METHODS:
            return cls(text)
        method, slash, layer = text.partition("/")
        if slash and method in GRADIENT_METHODS and LAYER_NAME.fullmatch(layer):
            return cls(method, layer)
        own, mark, head = text.partition(HEAD)
        if mark and own not in METHODS and NATIVE_NAME.fullmatch(own) and _HEAD_NUMBER.fullmatch(head):
            return cls(own, head=int(head))
        native, colon, prompt = text.partition(":")
        if native not in METHODS and NATIVE_NAME.fullmatch(native):
            if not colon:
                return cls(native)
            if PROMPT_NAME.fullmatch(prompt):
                return cls(native, prompt=prompt)
        near = [f"{name}/{layer or '<layer>'}" for name in GRADIENT_METHODS]
        hint = did_you_mean(text, [*near, *RELEVANCE_METHODS, ATTENTION]) or "."
        raise CamError(
            f"unknown map {text!r}{hint} Maps are <method>/<layer> with method {', '.join(GRADIENT_METHODS)}; "
            f"{', '.join(RELEVANCE_METHODS)}; and those that the model computes itself, such as {ATTENTION} and "
            f"{ATTENTION}:<prompt>"
        )


def parse_names(texts: Sequence[str]) -> tuple[MapName, ...]:
    """The named maps in the order given, each once.

    Raises CamError on wrong syntax, on an unknown method, on no name at all, on two names with the same column, and on
    a single head, which is read and not computed.
    """
    if not texts:
        raise CamError("no map was requested")
    names = tuple(dict.fromkeys(MapName.parse(text) for text in texts))
    for name in names:
        if name.head is not None:
            raise CamError(
                f"{name} is a single head: heads are computed all together (`promptsg mine --attention-heads all`), "
                f"and {name} is then a name to read them by"
            )
    columns: dict[str, MapName] = {}
    for name in names:
        if other := columns.get(name.column):
            raise CamError(f"the maps {other} and {name} would share the column {name.column}; rename one prompt")
        columns[name.column] = name
    return names


def column_of(name: str) -> str:
    """A map name made safe for unquoted SQL: `++` becomes `pp`, `#` `_head`; `/`, `:` and the like become `_`."""
    return re.sub(r"[^a-z0-9_]", "_", name.lower().replace("++", "pp").replace(HEAD, "_head"))


def title_of(name: str) -> str:
    """A map's name as a caption has it: `mim_attention#3` is `mim_attention head 3`."""
    return name.replace(HEAD, " head ")
