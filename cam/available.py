"""Which maps a model has: names of maps, methods and layers, checked against what the model offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from cam.errors import CamError
from cam.methods import GRADCAM_PLUS_PLUS_FORMS
from cam.names import GRADIENT_METHODS, RELEVANCE_METHODS, MapName
from cam.protocol import E, LayerLike, PicturedModel, TappedModel
from cam.suggest import did_you_mean
from cam.targets import LOGITS, TARGET_OUTPUTS, Target, no_classes_error, output_of

LayerChoice = str | nn.Module | Sequence[str | nn.Module]


def check_reachable(
    model: TappedModel[E],
    names: Sequence[MapName],
    target: Target | str,
    gradcam_plus_plus: str = "rectified",
    head: str | None = None,
) -> None:
    """Raises CamError for the first map that the model does not have or that the target does not reach.

    `head` names the head whose score is explained, by default the model's usual one. The message names the map, the
    reason, and what is valid. A target that needs data may be given by its name.
    """
    if gradcam_plus_plus not in GRADCAM_PLUS_PLUS_FORMS:
        raise CamError(f"gradcam_plus_plus is {gradcam_plus_plus!r}; forms are {', '.join(GRADCAM_PLUS_PLUS_FORMS)}")
    label, output = (target, output_of(target)) if isinstance(target, str) else (target.name, target.output)
    _check_computed(model, label, output)
    for name in names:
        _check_exists(model, name)
        if name.layer is not None and (reason := _obstacle(model.layers, name, label, output, head)):
            raise CamError(f"{name}: {reason}")


def _check_computed(model: TappedModel[E], target: str, output: str) -> None:
    """Raises CamError where no layer of the model leads to the output that a target starts from."""
    outputs = {one.partition(":")[0] for layer in model.layers.values() for one in layer.outputs}
    if outputs and output not in outputs:
        others = [name for name, start in TARGET_OUTPUTS.items() if start in outputs]
        if output == LOGITS:
            raise no_classes_error(target, others)
        raise CamError(
            f"this model does not compute the {output} that the target {target} starts from; its targets are "
            f"{', '.join(others)}"
        )


def default_maps(model: TappedModel[E]) -> tuple[str, ...]:
    """The maps that are taken where none are named: those that the model's configuration names as `default_maps`.

    For a model whose configuration names none, the first of its own maps that needs no prompt; without such a map
    GradCAM++ on the first layer that a score passes through. Raises CamError for a model without any of these.
    """
    stated: Sequence[str] = getattr(getattr(model, "config", None), "default_maps", ())
    if stated:
        return tuple(stated)
    native = [name for name in model.native_maps if MapName.parse(name).prompt is None]
    on_layers = [str(MapName("gradcam++", name)) for name, layer in model.layers.items() if layer.outputs]
    if not (found := [*native, *on_layers]):
        raise CamError("this model has no maps of its own and no layers: no map can be taken from it")
    return (found[0],)


def map_names(
    model: PicturedModel[E],
    method: str,
    layers: LayerChoice | None = None,
    target: str = "predicted",
    head: str | None = None,
) -> list[str]:
    """The names of the maps that a method and layers stand for.

    `method` may be `all`, and so may `layers`: maps that the target, given by its name, does not reach are then left
    out; `head` is as for `check_reachable`. Raises CamError on a method or a layer that does not exist.
    """
    methods = methods_of(model)
    if method != "all" and method not in methods:
        _check_attends(model, method)
        hint = did_you_mean(method, methods)
        raise CamError(f"unknown method {method!r}{hint or '.'} The methods are {', '.join(methods)} and all")
    found: list[str] = []
    for each in methods if method == "all" else (method,):
        if each not in GRADIENT_METHODS:
            found.append(each)
            continue
        names = [MapName(each, layer) for layer in layer_names(model, layers)]
        if "all" in (method, layers):
            names = [name for name in names if not _obstacle(model.layers, name, target, output_of(target), head)]
        found += map(str, names)
    return found


def methods_of(model: TappedModel[E]) -> list[str]:
    """The methods for a model's maps: gradient methods, the model's own maps without a prompt, relevance methods."""
    native = [name for name in model.native_maps if MapName.parse(name).prompt is None]
    return [*GRADIENT_METHODS, *native, *_relevance_methods(model)]


def _relevance_methods(model: TappedModel[E]) -> tuple[str, ...]:
    return tuple(method for method in RELEVANCE_METHODS if _missing(model, method) is None)


def _missing(model: TappedModel[E], method: str) -> str | None:
    """What a relevance method needs and the model lacks; None where it has all. Models of others may be older."""
    if not getattr(model, "has_attention", False):
        return "this model has no attention to follow through its blocks"
    if method == "legrad" and not callable(getattr(model, "each_block", None)):
        return "this model does not read out its blocks one by one (each_block)"
    return None


def layer_names(model: PicturedModel[E], layers: LayerChoice | None = None) -> list[str]:
    """The names of layers that are given by name or by the model's own submodules; `all` is all, None the first.

    Raises CamError, naming the layers, for one that this model does not have.
    """
    if layers is None:
        return list(model.layers)[:1]
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
        if name.prompt is not None and prompts:
            known = ", ".join(prompt for prompt in prompts if prompt is not None) or "none"
            raise CamError(f"{name}: the model was given no prompt called {name.prompt}; it has {known}")
        raise _unknown_map_error(model, name)
    _check_attends(model, name.method)
    if name.layer is not None and name.layer not in model.layers:
        raise _unknown_map_error(model, name)


def _check_attends(model: TappedModel[E], method: str) -> None:
    if method in RELEVANCE_METHODS and (missing := _missing(model, method)):
        on_layers = f"{'|'.join(GRADIENT_METHODS)}/{'|'.join(model.layers)}"
        own = ", ".join([*model.native_maps, *_relevance_methods(model), on_layers])
        raise CamError(f"{method}: {missing}; its maps are {own}")


def _unknown_map_error(model: TappedModel[E], name: MapName) -> CamError:
    others = [*model.native_maps, *_relevance_methods(model)]
    layers = [layer for layer, spec in model.layers.items() if spec.outputs]  # those that a score sees
    on_layers = [f"{method}/{layer}" for method in GRADIENT_METHODS for layer in layers]
    hint = did_you_mean(str(name), [*others, *on_layers]) or "."
    return CamError(
        f"unknown map {str(name)!r}{hint} The maps of this model are {', '.join(others)} and <method>/<layer> with "
        f"method {', '.join(GRADIENT_METHODS)} and layer {', '.join(layers)}"
    )


def _obstacle(layers: Mapping[str, LayerLike], name: MapName, target: str, output: str, head: str | None) -> str | None:
    """Why a gradient method cannot give a map on a layer that exists; None where it can."""
    assert name.layer is not None
    layer = layers[name.layer]
    wanted = {output, f"{output}:{head}"}  # the second: of this head alone
    reachable = [other for other, spec in layers.items() if wanted & spec.outputs]
    if not layer.outputs:
        instead = f"; take {name.method}/{reachable[0]}" if reachable else ""
        return f"no score of this model sees a patch at {name.layer}, since only CLS is read there{instead}"
    if not wanted & layer.outputs:
        heads = sorted(one.removeprefix(f"{output}:") for one in layer.outputs if one.startswith(f"{output}:"))
        passing = f" except with the head {' or '.join(heads)}" if heads else ""
        known = ", ".join(reachable)
        return f"the target {target} does not pass through layer {name.layer}{passing}; it reaches {known}"
    if name.method == "hirescam" and layer.read_through_norm is not None:
        return (
            f"only a LayerNorm reads {name.layer}, so the sum of g * A is zero there except for eps (Euler's theorem); "
            f"take hirescam/{layer.read_through_norm}"
        )
    return None
