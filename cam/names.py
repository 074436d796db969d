"""Map names, as in configurations, HDF5 and Parquet: `mim_attention`, `<method>/<layer>`, ... (no torch)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cam.errors import CamError
from cam.suggest import did_you_mean

ATTENTION = "mim_attention"
GRADIENT_METHODS = ("gradcam", "gradcam++", "hirescam")
RELEVANCE_METHODS = ("rollout", "chefer")
METHOD_NAMES = (*GRADIENT_METHODS, ATTENTION, *RELEVANCE_METHODS)
LAYERS = ("mim", "vit_last", "vit_proj", "bottleneck", "classifier")
PROMPT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class MapName:
    """One map that can be asked for.

    `layer` belongs to the gradient methods only; `prompt` names a further prompt that the attention was asked with.
    """

    method: str
    layer: str | None = None
    prompt: str | None = None

    def __str__(self) -> str:
        if self.prompt is not None:
            return f"{self.method}:{self.prompt}"
        return self.method if self.layer is None else f"{self.method}/{self.layer}"

    @property
    def column(self) -> str:
        """The name as the start of an SQL column: `gradcam++/mim` is `gradcampp_mim`."""
        return column_of(str(self))

    @property
    def needs_target(self) -> bool:
        """Whether the map depends on the score that is differentiated."""
        return self.method in (*GRADIENT_METHODS, "chefer")

    @classmethod
    def parse(cls, text: str) -> MapName:
        """Raises CamError on an unknown method or layer, naming the valid ones and the nearest."""
        if text in (ATTENTION, *RELEVANCE_METHODS):
            return cls(text)
        method, colon, prompt = text.partition(":")
        if colon and method == ATTENTION and PROMPT_NAME.fullmatch(prompt):
            return cls(method, prompt=prompt)
        method, slash, layer = text.partition("/")
        if slash and method in GRADIENT_METHODS and layer in LAYERS:
            return cls(method, layer)
        valid = [ATTENTION, *RELEVANCE_METHODS, *(f"{m}/{layer}" for m in GRADIENT_METHODS for layer in LAYERS)]
        hint = did_you_mean(text, valid) or "."
        raise CamError(
            f"unknown map {text!r}{hint} Maps are {ATTENTION}, {', '.join(RELEVANCE_METHODS)}, {ATTENTION}:<prompt> "
            f"and <method>/<layer> with method {', '.join(GRADIENT_METHODS)} and layer {', '.join(LAYERS)}"
        )


def parse_names(texts: Sequence[str]) -> tuple[MapName, ...]:
    """The named maps in the order given, each once.

    Raises CamError on an unknown name, on none at all, and on two whose columns would be the same.
    """
    if not texts:
        raise CamError("no map was asked for")
    names = tuple(dict.fromkeys(MapName.parse(text) for text in texts))
    columns: dict[str, MapName] = {}
    for name in names:
        if other := columns.get(name.column):
            raise CamError(f"the maps {other} and {name} would share the column {name.column}; rename one prompt")
        columns[name.column] = name
    return names


def column_of(name: str) -> str:
    """A map name made safe for unquoted SQL: `++` becomes `pp`; `/`, `:` and the like become `_`."""
    return re.sub(r"[^a-z0-9_]", "_", name.lower().replace("++", "pp"))
