"""Map names: `mim_attention` and `<method>/<layer>`, as in configurations, HDF5 and Parquet (no torch)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cam.errors import CamError

ATTENTION = "mim_attention"
GRADIENT_METHODS = ("gradcam", "gradcam++", "hirescam")
LAYERS = ("mim", "vit_last", "vit_proj", "bottleneck", "classifier")


@dataclass(frozen=True)
class MapName:
    """One map that can be asked for; `layer` is None for the attention map, which needs no gradient."""

    method: str
    layer: str | None = None

    def __str__(self) -> str:
        return self.method if self.layer is None else f"{self.method}/{self.layer}"

    @property
    def column(self) -> str:
        """The name as the start of an SQL column: `gradcam++/mim` is `gradcampp_mim`."""
        return column_of(str(self))

    @classmethod
    def parse(cls, text: str) -> MapName:
        """Raises CamError on an unknown method or layer, naming the valid ones and the nearest."""
        if text == ATTENTION:
            return cls(ATTENTION)
        method, slash, layer = text.partition("/")
        if slash and method in GRADIENT_METHODS and layer in LAYERS:
            return cls(method, layer)
        valid = [ATTENTION, *(f"{m}/{layer}" for m in GRADIENT_METHODS for layer in LAYERS)]
        near = difflib.get_close_matches(text, valid, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CamError(
            f"unknown map {text!r}{hint} Maps are {ATTENTION} and <method>/<layer> "
            f"with method {', '.join(GRADIENT_METHODS)} and layer {', '.join(LAYERS)}"
        )


def parse_names(texts: Sequence[str]) -> tuple[MapName, ...]:
    """The named maps in the order given, each once. Raises CamError on an unknown name and on none at all."""
    if not texts:
        raise CamError("no map was asked for")
    return tuple(dict.fromkeys(MapName.parse(text) for text in texts))


def column_of(name: str) -> str:
    """A map name made safe for unquoted SQL: `++` becomes `pp`; `/`, `:` and the like become `_`."""
    return re.sub(r"[^a-z0-9_]", "_", name.lower().replace("++", "pp"))
