"""From a score and a model's taps to the maps of the gradient methods.

Legend: B batch, M patches, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cam.methods import GRADCAM_PLUS_PLUS_FORMS, METHODS, Method
from cam.names import MapName
from cam.precision import at_least_float32, scaled_gradients, score_scale, without_autocast
from cam.protocol import TapLike

_CACHED = 1 << 17  # numbers that are worked on at once: tensors of 0.5 MB stay in a core's own cache


def gradient_maps(
    names: Sequence[MapName], score: Tensor, taps: Mapping[str, TapLike], form: str
) -> dict[MapName, Tensor]:
    """(B,) score and a tap for each layer -> name -> (B, M) of the maps that lie on layers.

    `form` is a key of GRADCAM_PLUS_PLUS_FORMS. In eval mode the rows of a batch are independent, so the gradient of the
    summed scores is each row's own.
    """
    if not taps:
        return {}
    sources = [tap.source for tap in taps.values()]
    scale = score_scale(*sources)
    gradients = scaled_gradients(score, sources, scale)
    found: dict[MapName, Tensor] = {}
    for group in _groups(names, taps, gradients, form):
        for of_layer, maps in zip(group.names, group.weighed(scale), strict=True):
            found |= zip(of_layer, maps, strict=True)
    return found


@dataclass
class _Group:
    """Layers whose maps are computed at once: of one size and type, with the same methods."""

    methods: list[Method]
    names: list[list[MapName]] = field(default_factory=list)
    activations: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)

    def weighed(self, scale: float) -> list[tuple[Tensor, ...]]:
        """Of each layer, the (B, M) map of each method."""
        layers = len(self.names)
        found = weigh(self.methods, _joined(self.activations), _joined(self.gradients), scale)
        return list(zip(*(maps.chunk(layers) for maps in found), strict=True))


def _groups(
    names: Sequence[MapName], taps: Mapping[str, TapLike], gradients: Sequence[Tensor], form: str
) -> Iterable[_Group]:
    """The layers in groups. On a CPU each is one of its own: what is joined there would have to be copied."""
    found: dict[tuple[object, ...], _Group] = {}
    for (layer, tap), gradient in zip(taps.items(), gradients, strict=True):
        of_layer = [name for name in names if name.layer == layer]
        methods = [_method(name, form) for name in of_layer]
        activations = tap.activations.detach()
        alone = layer if activations.device.type == "cpu" else None
        kind = (alone, activations.shape, activations.dtype, gradient.shape, gradient.dtype, *methods)
        group = found.setdefault(kind, _Group(methods))
        group.names.append(of_layer)
        group.activations.append(activations)
        group.gradients.append(gradient)
    return found.values()


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


@torch.no_grad()
def weigh(methods: Sequence[Method], activations: Tensor, gradient: Tensor, scale: float) -> list[Tensor]:
    """(B, M, D) and (B, M or more, D) or (B, D) -> (B, M) of each method, a few rows at a time on a CPU.

    `gradient` is that of the score times `scale`. The methods are passes over tensors as large as the activations:
    those of a whole batch would not stay in a cache.
    """
    count, *size = activations.shape
    rows = max(1, _CACHED // math.prod(size)) if activations.device.type == "cpu" else max(1, count)
    with without_autocast(activations):
        pieces = [
            _weigh_rows(methods, at_least_float32(some), _patch_gradients(gradients, some.shape[1], scale))
            for some, gradients in zip(torch.split(activations, rows), torch.split(gradient, rows), strict=True)
        ]
    return [_joined(maps) for maps in zip(*pieces, strict=True)]


def _method(name: MapName, form: str) -> Method:
    return GRADCAM_PLUS_PLUS_FORMS[form] if name.method == "gradcam++" else METHODS[name.method]


def _weigh_rows(methods: Sequence[Method], activations: Tensor, gradients: Tensor) -> list[Tensor]:
    """(B, M, D), (B, M or 1, D) -> (B, M) of each method."""
    swept: Mapping[Method, Tensor] = {}
    if activations.device.type == "cpu" and METHODS["gradcam++"] in methods:
        from cam.sweeps import can_sweep, sweep  # Numba takes a moment to load, and only these maps need it

        swept = sweep(activations, gradients) if can_sweep(activations, gradients) else {}
    return [swept[method] if method in swept else method(activations, gradients) for method in methods]


def _patch_gradients(gradient: Tensor, patches: int, scale: float) -> Tensor:
    """(B, M or more, D) -> (B, M, D), CLS dropped; (B, D) -> (B, 1, D); float32 at least, unscaled."""
    own = at_least_float32(gradient[:, -patches:] if gradient.ndim == 3 else gradient.unsqueeze(1))
    return own if scale == 1.0 else own / scale
