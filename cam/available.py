"""Which maps a model has: names of maps, methods and layers, checked against what the model offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from cam.errors import CamError
from cam.methods import GRADCAM_PLUS_PLUS_FORMS
from cam.names import GRADIENT_METHODS, RELEVANCE_METHODS, MapName
from cam.protocol import E, LayerLike, PicturedModel, TappedModel
from cam.suggest import did_you_mean
from cam.targets import Target, output_of

LayerChoice = str | nn.Module | Sequence[str | nn.Module]


def check_reachable(
    model: TappedModel[E], names: Sequence[MapName], target: Target | str, gradcam_plus_plus: str = "rectified"
) -> None:
    """Raises CamError for the first map that the model does not have or that the target does not reach.

    The message names the map, the reason, and what is valid. A target that needs data may be given by its name.
    """
    if gradcam_plus_plus not in GRADCAM_PLUS_PLUS_FORMS:
        raise CamError(f"gradcam_plus_plus is {gradcam_plus_plus!r}; forms are {', '.join(GRADCAM_PLUS_PLUS_FORMS)}")
    label, output = (target, output_of(target)) if isinstance(target, str) else (target.name, target.output)
    for name in names:
        _check_exists(model, name)
        if name.layer is not None and (reason := _obstacle(model.layers, name, label, output)):
            raise CamError(f"{name}: {reason}")


def map_names(model: PicturedModel[E], method: str, layers: LayerChoice, target: str = "predicted") -> list[str]:
    """The names of the maps that a method and layers stand for.

    `method` may be `all`, and so may `layers`: maps that the target, given by its name, does not reach are then left
    out. Raises CamError on a method or a layer that does not exist.
    """
    methods = methods_of(model)
    if method != "all" and method not in methods:
        hint = did_you_mean(method, methods)
        raise CamError(f"unknown method {method!r}{hint or '.'} The methods are {', '.join(methods)} and all")
    found: list[str] = []
    for each in methods if method == "all" else (method,):
        if each not in GRADIENT_METHODS:
            found.append(each)
            continue
        names = [MapName(each, layer) for layer in layer_names(model, layers)]
        if "all" in (method, layers):
            names = [name for name in names if not _obstacle(model.layers, name, target, output_of(target))]
        found += map(str, names)
    return found


def methods_of(model: TappedModel[E]) -> list[str]:
    """The methods for a model's maps: gradient methods, the model's own maps without a prompt, relevance methods."""
    native = [name for name in model.native_maps if MapName.parse(name).prompt is None]
    return [*GRADIENT_METHODS, *native, *RELEVANCE_METHODS]


def layer_names(model: PicturedModel[E], layers: LayerChoice) -> list[str]:
    """The names of layers that are given by name or by the model's own submodules; `all` is every layer.

    Raises CamError, naming the layers, for one that this model does not have.
    """
    if isinstance(layers, (str, nn.Module)):
        layers = list(model.layers) if layers == "all" else [layers]
    return list(dict.fromkeys(_layer_name(model, layer) for layer in layers))


def _layer_name(model: PicturedModel[E], layer: str | nn.Module) -> str:
    known = ", ".join(model.layers)
    if isinstance(layer, str):
        if layer in model.layers:
            return layer
        hint = did_you_mean(layer, model.layers)
        raise CamError(f"unknown layer {layer!r}{hint or '.'} The layers are {known}")
    paths = {module: path for path, module in model.named_modules()}
    for name, spec in model.layers.items():
        if paths.get(layer) in spec.modules:
            return name
    where = paths.get(layer, "no part of this model")
    raise CamError(f"no map lies on {type(layer).__name__} ({where}); layers are {known}")


def _check_exists(model: TappedModel[E], name: MapName) -> None:
    if name.is_native and str(name) not in model.native_maps:
        prompts = [own.prompt for own in map(MapName.parse, model.native_maps) if own.method == name.method]
        if name.prompt is not None and None in prompts:
            known = ", ".join(prompt for prompt in prompts if prompt is not None) or "none"
            raise CamError(f"{name}: the model was given no prompt called {name.prompt}; it has {known}")
        raise _unknown_map_error(model, name)
    if name.layer is not None and name.layer not in model.layers:
        raise _unknown_map_error(model, name)


def _unknown_map_error(model: TappedModel[E], name: MapName) -> CamError:
    others = [*model.native_maps, *RELEVANCE_METHODS]
    on_layers = [f"{method}/{layer}" for method in GRADIENT_METHODS for layer in model.layers]
    hint = did_you_mean(str(name), [*others, *on_layers]) or "."
    return CamError(
        f"unknown map {str(name)!r}{hint} The maps of this model are {', '.join(others)} and <method>/<layer> with "
        f"method {', '.join(GRADIENT_METHODS)} and layer {', '.join(model.layers)}"
    )


def _obstacle(layers: Mapping[str, LayerLike], name: MapName, target: str, output: str) -> str | None:
    """Why a gradient method cannot give a map on a layer that exists; None where it can."""
    assert name.layer is not None
    layer = layers[name.layer]
    if output not in layer.outputs:
        reachable = [other for other, spec in layers.items() if output in spec.outputs]
        return f"the target {target} does not pass through layer {name.layer}; it reaches {', '.join(reachable)}"
    if name.method == "hirescam" and layer.read_through_norm is not None:
        return (
            f"only a LayerNorm reads {name.layer}, so the sum of g * A is zero there except for eps (Euler's theorem); "
            f"take hirescam/{layer.read_through_norm}"
        )
    return None
