"""Taps: the places of the head where activations are kept and from which gradients exist.

There are no hooks: the head calls `open` at each place, and the graph begins at the first wanted tap.
Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A place that a map can lie on.

    outputs: the outputs, logits, features or text, that depend on it; `logits:all` where only the logits of the head
    `all` do; none where no score sees a patch there.
    read_through_norm: the layer to take instead where only a LayerNorm reads this one. modules: paths of submodules by
    which older code names the layer.
    """

    outputs: frozenset[str]
    read_through_norm: str | None = None
    modules: tuple[str, ...] = ()


def unseen_layers() -> dict[str, Layer]:
    """The layers of PromptSG that a model has too, but where no score sees a patch: only CLS is read after them."""
    return {name: Layer(outputs=frozenset()) for name in ("vit_last", "vit_proj", "bottleneck", "classifier")}


@dataclass(frozen=True)
class Tap:
    """Activations (B, M, D) of the patch tokens, and the tensor to differentiate a score by.

    `source` is (B, N or M, D), the same tokens with or without CLS before them, or (B, D), one vector whose gradient
    all patches share.
    """

    activations: Tensor
    source: Tensor


class Taps:
    """Collects the taps named in `wanted`. At every other place the tensor passes unchanged, at no cost."""

    def __init__(self, wanted: Collection[str] = ()) -> None:
        self.wanted = frozenset(wanted)
        self.found: dict[str, Tap] = {}

    def open(self, name: str, tokens: Tensor) -> Tensor:
        """(B, N, D) tokens, CLS first -> the same, part of a graph if `name` is wanted."""
        if name in self.wanted:
            tokens = _differentiable(tokens)
            self.found[name] = Tap(activations=tokens[:, 1:], source=tokens)
        return tokens

    def open_patches(self, name: str, patches: Tensor) -> Tensor:
        """(B, M, D) patch tokens -> the same, part of a graph if `name` is wanted."""
        if name in self.wanted:
            patches = _differentiable(patches)
            self.found[name] = Tap(activations=patches, source=patches)
        return patches

    def open_vector(self, name: str, vector: Tensor) -> Tensor:
        """(B, D) -> the same vector, part of a graph if `name` is wanted. `lay` gives its activations later."""
        return _differentiable(vector) if name in self.wanted else vector

    def lay(self, name: str, vector: Tensor, activations: Tensor) -> None:
        """Records, if wanted, (B, M, D) activations that all have the gradient of the (B, D) vector."""
        if name in self.wanted:
            self.found[name] = Tap(activations=activations, source=vector)


def _differentiable(tensor: Tensor) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_(True)
