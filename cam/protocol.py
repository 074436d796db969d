"""What a model must offer so that maps can be taken from it.

Legend: B batch, M patches, D channels, C classes, F feature length, H heads, N tokens, h w grid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, TypeVar

from torch import Tensor, nn

from cam.targets import Scored

# (B,) camera numbers from 0, one number for all images, or what stands for an unknown camera.
CameraChoice: TypeAlias = "Tensor | int | Literal['mean', 'none']"
Captions: TypeAlias = "Sequence[str | None]"  # a text of each image's own; None where an image has none
E = TypeVar("E")  # what a model's `encode` gives and its `head` takes; only the model looks inside


class TapLike(Protocol):
    """A place where a model's activations were kept."""

    @property
    def activations(self) -> Tensor:
        """(B, M, D) of the patches."""

    @property
    def source(self) -> Tensor:
        """What to differentiate by: (B, M or more, D), patches last, or (B, D), whose gradient all patches share."""


class LayerLike(Protocol):
    """What a map on a layer must know."""

    @property
    def outputs(self) -> frozenset[str]:
        """The outputs, "logits", "features" or "text", that depend on the layer.

        "logits:NAME" stands for the logits of the head of this name alone.
        """

    @property
    def read_through_norm(self) -> str | None:
        """The layer to take instead, if only a LayerNorm reads this one."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of submodules that stand for the layer in code that names layers by modules."""


class HeadLike(Scored, Protocol):
    """What a model's head gives for a batch: what targets read, the model's own maps and the taps."""

    @property
    def native_maps(self) -> Mapping[str, Tensor]:
        """(B, M) by name: the maps that the model computes itself, those named in `TappedModel.native_maps`."""

    @property
    def attention_heads(self) -> Tensor:
        """(B, H, M): the heads of the model's own attention; H is 0 for a model without attention."""

    @property
    def taps(self) -> Mapping[str, TapLike]:
        """A tap by the name of each layer that is wanted."""


class TappedModel(Protocol[E]):
    """A model that maps can be taken from: `encode` without gradient, then a `head` with named taps.

    The model alone knows which layers and which maps of its own it has.
    """

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches, the shape of every map."""

    @property
    def layers(self) -> Mapping[str, LayerLike]:
        """The layers that maps can lie on, by name."""

    @property
    def native_maps(self) -> Collection[str]:
        """Names of the maps that the model computes itself, such as `mim_attention` and `mim_attention:bag`."""

    @property
    def has_attention(self) -> bool:
        """Whether its blocks attend from token to token; without, relevance methods have nothing to follow."""

    def modules(self) -> Iterator[nn.Module]:
        """As of torch.nn.Module: all parts whose training flag counts."""

    def encode(self, images: Tensor, cameras: CameraChoice | None = None, captions: Captions | None = None) -> E:
        """(B, 3, H, W) -> what `head` takes, without gradient. `cameras` and `captions` are those of the images.

        `captions` are passed only where they are given.
        """

    def head(
        self, encoded: E, taps: Collection[str] = (), head: str | None = None, native: Collection[str] | None = None
    ) -> HeadLike:
        """The head's output, with a tap for each named layer and gradients from these layers on.

        `head` names the head whose `scores` are explained, by default the model's usual one. Of the native
        maps those in `native` are given at least, by default all.
        """

    def trace(
        self,
        images: Tensor,
        gradient: bool = True,
        cameras: CameraChoice | None = None,
        head: str | None = None,
        captions: Captions | None = None,
    ) -> tuple[HeadLike, list[Tensor]]:
        """The head's output and the (B, H, N, N) attention of every block, first to last, for rollout and chefer."""

    def each_block(
        self,
        images: Tensor,
        encoded: E,
        cameras: CameraChoice | None = None,
        head: str | None = None,
        captions: Captions | None = None,
    ) -> Iterator[tuple[HeadLike, Tensor]]:
        """For legrad, of each block, first to last: the head's output as if this block were the last, and the block's
        (B, H, N, N) attention, from which alone a gradient of that output exists.

        `encoded` is what `encode` gave for the same images: what an image is compared with follows from the last block.
        """


class PixelScale(Protocol):
    """How images were normalised: mean and standard deviation of the RGB channels, as shares of 255."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Subtracted."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Divided by."""


class PicturedModel(TappedModel[E], Protocol[E]):
    """A tapped model whose layers may be named by submodules, and whose images can be shown."""

    @property
    def config(self) -> PixelScale:
        """Undoes the normalisation of images."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """As of torch.nn.Module: (path, module)."""
