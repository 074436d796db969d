"""The engine: one forward pass, one `autograd.grad`, every map that was asked for.

Legend: B batch, M patches, D channels, C classes, h w grid.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cam.errors import CamError
from cam.methods import GRADCAM_PLUS_PLUS_FORMS, METHODS, Method
from cam.names import ATTENTION, MapName, parse_names
from cam.relevance import chefer, rollout
from cam.targets import Target, output_of, resolve_target

# Gradients of a score in fp16 fall below its smallest number; the score is scaled up by this and g down again.
FP16_SCALE = 1024.0
_CACHED = 1 << 17  # numbers in hand: tensors of 0.5 MB stay in a core's own cache


class TapLike(Protocol):
    """A place where a model's activations were kept."""

    @property
    def activations(self) -> Tensor:
        """(B, M, D) of the patches."""

    @property
    def source(self) -> Tensor:
        """What to differentiate by: (B, M or more, D), patches last, or (B, D), whose gradient all patches share."""


class LayerLike(Protocol):
    """What a map on a layer has to know."""

    @property
    def outputs(self) -> frozenset[str]:
        """The outputs, "logits" or "features", that depend on the layer."""

    @property
    def read_through_norm(self) -> str | None:
        """The layer to take instead, if only a LayerNorm reads this one."""


class TappedModel(Protocol):
    """A model that maps can be taken from: encode without gradient, then a head with named taps."""

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches, the shape of every map."""

    @property
    def layers(self) -> Mapping[str, Any]:
        """A LayerLike by the name of each layer that maps can lie on."""

    @property
    def prompts(self) -> Mapping[str, Any]:
        """Further prompts by name; empty for a model that is not asked with text."""

    def modules(self) -> Iterator[nn.Module]:
        """As of torch.nn.Module: all parts whose training flag counts."""

    def encode(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> what `head` takes, without gradient."""

    def head(self, encoded: Any, taps: Collection[str] = ()) -> Any:
        """Logits, features, attention and a TapLike for each named layer, with gradients from these layers on."""

    def trace(self, images: Tensor, gradient: bool = True) -> tuple[Any, list[Tensor]]:
        """The head's output and the (B, H, N, N) attention of every block, first to last, for rollout and chefer."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Results on the model's device, all detached.

    maps: name -> (B, h, w) float32, raw; score (B,) float32, the value that was differentiated; predicted (B,) int64
    and probability (B,) float32, the argmax class and its softmax; features (B, F) float32, not normalised;
    attention_heads (B, H, h, w) float32, the MIM's heads, each summing to 1.
    """

    maps: dict[str, Tensor]
    score: Tensor
    predicted: Tensor
    probability: Tensor
    features: Tensor
    attention_heads: Tensor


def extract_maps(
    model: TappedModel,
    images: Tensor,
    maps: Sequence[str] = ("mim_attention", "gradcam++/mim"),
    target: str | Target | int | Tensor = "predicted",
    gradcam_plus_plus: str = "rectified",
) -> Extraction:
    """(B, 3, H, W) images -> every named map, from one forward pass and at most one backward pass.

    `rollout` and `chefer` need the weights of every block, and take a second, whole pass when they are asked for.
    `target` is a name, a Target, a class number, or (B,) class numbers. A model in training mode is evaluated and put
    back, also when something raises; no hook and no `.grad` is left on it.

    Raises CamError, before any work, on a name or target that is unknown and on a layer that the target cannot reach.
    """
    names = parse_names(maps)
    chosen = resolve_target(target)
    check_reachable(model, names, chosen, gradcam_plus_plus)
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        images = images.clone() if images.is_inference() else images
        return _extract(model, images, names, chosen, gradcam_plus_plus)


@contextlib.contextmanager
def evaluating(model: TappedModel) -> Iterator[None]:
    """Evaluation mode for a while: batch norms and dropout would otherwise mix the rows of a batch."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def _extract(
    model: TappedModel, images: Tensor, names: Sequence[MapName], chosen: Target, gradcam_plus_plus: str
) -> Extraction:
    layers = tuple(dict.fromkeys(name.layer for name in names if name.layer is not None))
    out = model.head(model.encode(images), taps=layers)
    score = chosen.score(out)
    traced = _gradient_maps(names, score, {layer: out.taps[layer] for layer in layers}, gradcam_plus_plus)
    relevance = _relevance(model, images, chosen, {name.method for name in names})
    found = {str(name): _map(name, out, traced, relevance).unflatten(1, model.grid) for name in names}
    with torch.no_grad():
        probability, predicted = out.logits.detach().float().softmax(dim=1).max(dim=1)
    return Extraction(
        maps=found,
        score=score.detach().float(),
        predicted=predicted,
        probability=probability,
        features=out.features.detach().float(),
        attention_heads=out.attention_heads.detach().float().unflatten(2, model.grid),
    )


def check_reachable(
    model: TappedModel, names: Sequence[MapName], target: Target | str, gradcam_plus_plus: str = "rectified"
) -> None:
    """Raises CamError, naming the layer, where a map cannot be had: the target does not reach it, or it is zero.

    A target that needs data may be given by its name.
    """
    name_of, output = (target, output_of(target)) if isinstance(target, str) else (target.name, target.output)
    if gradcam_plus_plus not in GRADCAM_PLUS_PLUS_FORMS:
        raise CamError(f"gradcam_plus_plus is {gradcam_plus_plus!r}; forms are {', '.join(GRADCAM_PLUS_PLUS_FORMS)}")
    for name in names:
        if name.prompt is not None and name.prompt not in model.prompts:
            known = ", ".join(model.prompts) or "none"
            raise CamError(f"{name}: the model was given no prompt called {name.prompt}; it has {known}")
        if name.layer is None:
            continue
        if name.layer not in model.layers:
            raise CamError(f"{name}: this model has no layer {name.layer}; it has {', '.join(model.layers)}")
        layer: LayerLike = model.layers[name.layer]
        if output not in layer.outputs:
            reachable = [other for other, spec in model.layers.items() if output in spec.outputs]
            raise CamError(
                f"{name}: the target {name_of} does not pass through layer {name.layer}; "
                f"it reaches {', '.join(reachable)}"
            )
        if name.method == "hirescam" and layer.read_through_norm is not None:
            raise CamError(
                f"{name}: only a LayerNorm reads {name.layer}, so the sum of g * A is zero there but for eps "
                f"(Euler's theorem); take hirescam/{layer.read_through_norm}"
            )


def _gradient_maps(
    names: Sequence[MapName], score: Tensor, taps: Mapping[str, TapLike], form: str
) -> dict[MapName, Tensor]:
    """name -> (B, M) of every map that a gradient makes.

    In eval mode the rows of a batch are independent, so the gradient of the summed scores is each row's own.
    """
    if not taps:
        return {}
    sources = [tap.source for tap in taps.values()]
    half = any(source.dtype == torch.float16 for source in sources)
    scale = FP16_SCALE if half else 1.0
    grads = torch.autograd.grad(score.sum() * scale, sources)
    found: dict[MapName, Tensor] = {}
    for (layer, tap), grad in zip(taps.items(), grads, strict=True):
        of_layer = [name for name in names if name.layer == layer]
        methods = [_method(name, form) for name in of_layer]
        found |= zip(of_layer, _weigh(methods, tap.activations.detach(), grad, scale), strict=True)
    return found


def _method(name: MapName, form: str) -> Method:
    return GRADCAM_PLUS_PLUS_FORMS[form] if name.method == "gradcam++" else METHODS[name.method]


@torch.no_grad()
def _weigh(methods: Sequence[Method], activations: Tensor, grad: Tensor, scale: float) -> list[Tensor]:
    """(B, M, D) and (B, M or more, D) or (B, D) -> (B, M) of each method, a few rows at a time on a CPU.

    The methods are passes over tensors as large as the activations: those of a whole batch would not stay in a cache.
    """
    count, *size = activations.shape
    rows = max(1, _CACHED // math.prod(size)) if activations.device.type == "cpu" else max(1, count)
    pieces = []
    for some, gradients in zip(activations.split(rows), grad.split(rows), strict=True):
        pieces.append(_of_rows(methods, _at_least_float32(some), _patch_gradients(gradients, some.shape[1], scale)))
    return [torch.cat(maps) for maps in zip(*pieces, strict=True)]


def _of_rows(methods: Sequence[Method], activations: Tensor, gradients: Tensor) -> list[Tensor]:
    """(B, M, D), (B, M or 1, D) -> (B, M) of each method."""
    swept: Mapping[Method, Tensor] = {}
    if activations.device.type == "cpu" and METHODS["gradcam++"] in methods:
        from cam.sweeps import can_sweep, sweep  # Numba takes a moment to load, which others have no use for

        swept = sweep(activations, gradients) if can_sweep(activations, gradients) else {}
    return [swept[method] if method in swept else method(activations, gradients) for method in methods]


def _patch_gradients(grad: Tensor, patches: int, scale: float) -> Tensor:
    """(B, M or more, D) -> (B, M, D), CLS dropped; (B, D) -> (B, 1, D); float32 at least, unscaled."""
    own = _at_least_float32(grad[:, -patches:] if grad.ndim == 3 else grad.unsqueeze(1))
    return own if scale == 1.0 else own / scale


def _relevance(model: TappedModel, images: Tensor, target: Target, methods: set[str]) -> dict[str, Tensor]:
    """method -> (B, M) for `rollout` and `chefer`, as far as they are asked for."""
    found: dict[str, Tensor] = {}
    if not methods & {"rollout", "chefer"}:
        return found
    out, weights = model.trace(images, gradient="chefer" in methods)
    if "rollout" in methods:
        found["rollout"] = rollout(weights)
    if "chefer" in methods:
        scale = FP16_SCALE if weights[0].dtype == torch.float16 else 1.0
        gradients = torch.autograd.grad(target.score(out).sum() * scale, weights)
        found["chefer"] = chefer(weights, [_at_least_float32(gradient) / scale for gradient in gradients])
    return found


def _map(name: MapName, out: Any, traced: Mapping[MapName, Tensor], relevance: Mapping[str, Tensor]) -> Tensor:
    """(B, M), float32 unless the model is wider."""
    if name.prompt is not None:
        return _at_least_float32(out.prompt_attention[name.prompt].detach())
    if name.method == ATTENTION:
        return _at_least_float32(out.attention.detach())
    return relevance[name.method] if name.layer is None else traced[name]


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
