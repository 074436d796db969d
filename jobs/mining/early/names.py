"""Misspelt maps, methods and layers, told without the model, which checks the rest (no torch)."""

from __future__ import annotations

from collections.abc import Sequence

from cam.names import GRADIENT_METHODS, METHODS, RELEVANCE_METHODS, parse_names
from jobs.errors import UserError
from jobs.phrases import did_you_mean
from promptsg_core.families.map_names import LAYER_NAMES, NATIVE_MAP_NAMES
from promptsg_core.families.registry import others_registered


def refuse_unknown_maps(maps: Sequence[str]) -> None:
    """Raises UserError for a layer or a map that no family has, and CamError for wrong syntax.

    Families of other packages may have further names: with one installed, only a near miss is refused.
    """
    for name in parse_names(maps) if maps else ():
        if name.layer is not None:
            refuse_unknown_layers([name.layer], f" in {name}")
        if name.method not in (*METHODS, *NATIVE_MAP_NAMES):
            hint = did_you_mean(name.method, (*METHODS, *NATIVE_MAP_NAMES))
            if hint or not others_registered():
                raise UserError(
                    f"unknown map {str(name)!r}{hint or '.'} Maps are <method>/<layer> with method "
                    f"{', '.join(GRADIENT_METHODS)}; {', '.join(RELEVANCE_METHODS)}; and "
                    f"{', '.join(NATIVE_MAP_NAMES)} of a model's own"
                )


def refuse_unknown_methods(methods: Sequence[str]) -> None:
    """Raises UserError for a method, or a map of a model's own, that no family has. `all` is all methods."""
    refuse_unknown_maps([name for name in methods if name != "all" and name not in METHODS])


def refuse_unknown_layers(layers: Sequence[str], where: str = "") -> None:
    """Raises UserError for a layer that no family has; `where` says what it stands in. `all` is all layers."""
    for layer in layers:
        if layer in (*LAYER_NAMES, "all"):
            continue
        hint = did_you_mean(layer, LAYER_NAMES)
        if hint or not others_registered():
            raise UserError(f"unknown layer {layer!r}{where}{hint or '.'} Layers are {', '.join(LAYER_NAMES)}")
