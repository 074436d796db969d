"""What every family's model offers: a gradient-free `encode`, then a small `head` with named taps.

A score can be traced back from the head's output to each tap. Legend: B batch, M patches, F feature length, h w grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.cameras import FALLBACKS, Cameras, refuse_cameras
from promptsg_core.config import FamilyConfig
from promptsg_core.errors import ModelError
from promptsg_core.outputs import HeadOutput, NamedOutputs
from promptsg_core.preprocess import Normaliser
from promptsg_core.prompts import Captions, Prompt
from promptsg_core.taps import Layer

if TYPE_CHECKING:
    from typing_extensions import Self

ConfigT = TypeVar("ConfigT", bound=FamilyConfig, covariant=True)
EncodedT = TypeVar("EncodedT")  # what `encode` gives and `head` takes


@dataclass(frozen=True, kw_only=True)
class TraceRequest:
    """Whose blocks are followed, (B, 3, H, W) images with their cameras and captions, and the head that is read."""

    images: Tensor
    cameras: Cameras | None
    captions: Captions | None
    head: str


class ReidModel(nn.Module, ABC, Generic[ConfigT, EncodedT]):
    """A model of any family; submodules carry the names of its checkpoints."""

    config: ConfigT
    # What may be given for images whose camera is not known, where the model has camera embeddings.
    camera_fallbacks: tuple[str, ...] = FALLBACKS
    takes_captions = False  # whether `captions=`, a text of each image's own, can be given
    # Whether its blocks attend from token to token; without, `trace` has nothing to give.
    has_attention: bool = True

    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        self.config = config
        self._normaliser = Normaliser(config.mean, config.std)

    # What a family defines.

    @property
    @abstractmethod
    def layers(self) -> Mapping[str, Layer]:
        """The layers that maps can lie on, and which outputs each of them leads to."""

    @property
    @abstractmethod
    def native_maps(self) -> list[str]:
        """Names of the maps that the model computes itself."""

    @property
    @abstractmethod
    def towers(self) -> tuple[nn.Module, ...]:
        """What computes in low precision. Batch norms and classifiers are not in it."""

    @abstractmethod
    def encode(self, images: Tensor, cameras: Cameras | None = None, captions: Captions | None = None) -> EncodedT:
        """(B, 3, H, W) uint8 RGB or normalised floats -> what `head` takes, without gradient.

        `captions` are B texts, each of one image, for a model that takes them.
        """

    @abstractmethod
    def head(
        self,
        encoded: EncodedT,
        taps: Collection[str] = (),
        head: str | None = None,
        native: Collection[str] | None = None,
    ) -> HeadOutput:
        """What `encode` gave -> HeadOutput. Gradients exist from the earliest of the named taps on.

        `head` is one of `heads`. Of the native maps those in `native` are given at least, by default all. Raises
        ValueError on a tap that is none of `layers`.
        """

    # What a family with attention defines.

    def _trace(self, asked: TraceRequest, gradient: bool) -> tuple[HeadOutput, list[Tensor]]:
        """What `trace` gives; what is asked has been checked."""
        raise ModelError(f"{type(self).__name__}: there is no attention to follow through blocks")

    def _each_block(self, asked: TraceRequest, encoded: EncodedT) -> Iterator[tuple[HeadOutput, Tensor]]:
        """What `each_block` gives; what is asked has been checked."""
        raise ModelError(f"{type(self).__name__}: there is no attention to follow through blocks")

    # What all have.

    def trace(
        self,
        images: Tensor,
        gradient: bool = True,
        cameras: Cameras | None = None,
        head: str | None = None,
        captions: Captions | None = None,
    ) -> tuple[HeadOutput, list[Tensor]]:
        """(B, 3, H, W) -> HeadOutput, and the (B, H, N, N) attention of every block that a score depends on.

        With `gradient`, one graph reaches from the scores back to all of these weights. Raises ModelError for a model
        without attention, and before any block runs for a head, cameras or captions that are not the model's.
        """
        return self._trace(self._asked(images, cameras, head, captions), gradient)

    def each_block(
        self,
        images: Tensor,
        encoded: EncodedT,
        cameras: Cameras | None = None,
        head: str | None = None,
        captions: Captions | None = None,
    ) -> Iterator[tuple[HeadOutput, Tensor]]:
        """(B, 3, H, W) -> of each block of `trace`, first to last: HeadOutput as if this block were the last, and the
        block's (B, H, N, N) attention, from which alone a gradient exists.

        `encoded` is what `encode` gave for these images: the text that an image is compared with follows from the last
        block, and is the same for all. Gradients must be on. One block's graph is held at a time. Raises ModelError as
        `trace` does.
        """
        return self._each_block(self._asked(images, cameras, head, captions), encoded)

    def _asked(
        self, images: Tensor, cameras: Cameras | None, head: str | None, captions: Captions | None
    ) -> TraceRequest:
        """Raises ModelError for what this model does not have or take."""
        if not self.takes_captions:
            self.refuse_captions(captions)
        if not self.camera_rows:
            refuse_cameras(cameras)
        return TraceRequest(images=images, cameras=cameras, captions=captions, head=self.check_head(head))

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads whose score can be explained; the first is the default."""
        return self.config.heads

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches, the shape of every map."""
        return self.config.grid

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the towers' weights."""
        return next(self.towers[0].parameters()).dtype

    @property
    def camera_rows(self) -> int:
        """Rows of the camera embedding; 0 without one."""
        return 0

    @property
    def class_problem(self) -> str | None:
        """Why no class can be explained; None where classes can."""
        return None

    @property
    def text_problem(self) -> str | None:
        """Why the target text cannot do without a caption of each image; None where it can, or where captions do not
        help.
        """
        return None

    @property
    def prompts(self) -> Mapping[str, Prompt]:
        """Further prompts by name."""
        return {}

    @property
    def random_levels(self) -> Mapping[str, tuple[str, ...]]:
        """For the sanity check: prefixes of the parameters that are made random, from the output down."""
        return {"head": (), "head and tower": ("",)}

    def convert(self, dtype: torch.dtype) -> Self:
        """Converts the towers to `dtype` in place and returns self.

        Batch norms and classifiers stay in float32: they take almost no time, and rounded running statistics would
        shift every feature in the same direction.
        """
        for module in self.towers:
            module.to(dtype)
        return self

    def encode_parts(self, images: Tensor) -> Mapping[str, Callable[[], object]]:
        """What `encode` does with images, in parts whose time can be measured: at least the "image tower"."""
        cameras = torch.zeros(len(images), dtype=torch.long) if self.camera_rows else None
        return {"image tower": lambda: self.encode(images, cameras)}

    def check(self) -> None:
        """Raises ModelError where the sizes of the parameters do not allow what the configuration says."""

    def made_ready(self) -> None:
        """Called once, in float32 and on the CPU, when the weights are there."""

    def add_prompts(self, prompts: Mapping[str, Prompt]) -> None:
        """Adds texts by name. Raises ModelError for a model without a text tower, or without these words."""
        if prompts:
            raise ModelError(f"a prompt was given, and {type(self).__name__} checkpoints read no texts")

    def refuse_captions(self, captions: Captions | None) -> None:
        """Raises ModelError where captions are given: for models that take none."""
        if captions is not None:
            raise ModelError(f"captions were given, and {type(self).__name__} checkpoints read no captions of images")

    def needs_captions(self, target: str, maps: Sequence[str]) -> str | None:
        """What of a target and of maps, by their names, cannot be had of an image without a caption, for people; None
        where nothing is.
        """
        return None

    def reads_captions(self, target: str, maps: Sequence[str]) -> bool:
        """Whether captions change a target or maps: the text tower reads none that nobody asked for."""
        return self.needs_captions(target, maps) is not None

    def prepare(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) on any device -> on the model's; uint8 RGB is normalised by mean and std, floats are kept."""
        images = images.to(self.device, non_blocking=True)
        if images.dtype == torch.uint8:
            return self._normaliser.normalise(images, self.dtype)
        return images

    def check_taps(self, taps: Collection[str]) -> None:
        """Raises ValueError on a tap that is none of `layers`."""
        if unknown := set(taps) - set(self.layers):
            raise ValueError(f"no tap called {', '.join(sorted(unknown))}; there are {', '.join(self.layers)}")

    def check_head(self, head: str | None) -> str:
        """The name of a head, by default the first. Raises ModelError for one that is none of `heads`."""
        if head is not None and head not in self.heads:
            raise ModelError(f"the head {head!r} is none of this model's: {', '.join(self.heads)}")
        return head or self.heads[0]

    @torch.no_grad()
    def forward(self, images: Tensor, cameras: Cameras | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, F) retrieval features, not normalised to unit length."""
        return self.head(self.encode(images, cameras), native=()).features

    @torch.no_grad()
    def normalised_features(self, images: Tensor, cameras: Cameras | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, F) float32 features of unit length: their dot product is the cosine similarity."""
        features: Tensor = self(images, cameras)
        return F.normalize(features.float(), dim=1)

    @torch.no_grad()
    def get_attention_map(
        self, images: Tensor, reshape_to_image: bool = True, cameras: Cameras | None = None
    ) -> Tensor:
        """(B, 3, H, W) -> (B, h, w), the first of `native_maps`; (B, h*w) without reshaping."""
        name = self.native_maps[0]
        attention = self.head(self.encode(images, cameras), native=(name,)).native_maps[name]
        return torch.unflatten(attention, 1, self.grid) if reshape_to_image else attention

    @torch.no_grad()
    def forward_with_attention(
        self, images: Tensor, cameras: Cameras | None = None, captions: Captions | None = None
    ) -> NamedOutputs:
        """(B, 3, H, W) -> by name: logits, features, the native maps (B, 1, M), and what else the family gives."""
        out = self.head(self.encode(images, cameras, captions))
        maps = {name: attention.unsqueeze(1) for name, attention in out.native_maps.items()}
        return {"logits": [out.logits], "features": out.features, **maps, **out.parts}


AnyModel: TypeAlias = ReidModel[FamilyConfig, Any]  # of whatever family: what it encodes to, it alone knows
