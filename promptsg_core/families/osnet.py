"""OSNet of torchreid (Zhou et al. 2019, arXiv:1905.00953), of every width, also its variants IBN and AIN.

The class is read from the mean over the places of the last convolution, so all layers but that one are computed without
a gradient. Legend: B batch, M places, D channels, F feature length, C classes, h w grid.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.cameras import Cameras, refuse_cameras
from promptsg_core.config import FamilyConfig, FieldValue, check_name
from promptsg_core.errors import ModelError
from promptsg_core.families.family import ReadTensors, Signature, Stated
from promptsg_core.families.map_names import ACTIVATION
from promptsg_core.families.shapes import refuse_contradictions, shape_of
from promptsg_core.model import AnyModel, ReidModel
from promptsg_core.outputs import HeadOutput
from promptsg_core.prompts import Captions
from promptsg_core.taps import Layer, Taps
from promptsg_core.towers.convolutions import NormedConvolution
from promptsg_core.towers.omniscale import GATE_NARROWER, NARROWER, BlockNorm, omniscale_stage
from promptsg_core.towers.vision import check_size

_CELL = 16  # pixels between two places of the last layer
_FULL_WIDTH = 512  # channels of the last layer of OSNet x1.0
_NONE, _INSIDE, _AFTER = BlockNorm.NONE, BlockNorm.INSIDE, BlockNorm.AFTER
# Where the two blocks of each stage have instance norms. With any, the first convolution has one too.
_VARIANTS: Mapping[str, tuple[tuple[BlockNorm, BlockNorm], ...]] = {
    "plain": ((_NONE, _NONE), (_NONE, _NONE), (_NONE, _NONE)),
    "ibn": ((_AFTER, _AFTER), (_NONE, _NONE), (_NONE, _NONE)),
    "ain": ((_INSIDE, _INSIDE), (_NONE, _INSIDE), (_INSIDE, _NONE)),
}
# The names of AIN's file, and those of the others, which are the model's.
_FROM_AIN = (
    (re.compile(r"^(conv[234]\.\d)\.conv2\.0\.layers\.0\."), r"\1.conv2a."),
    (re.compile(r"^(conv[234]\.\d)\.conv2\.1\.layers\."), r"\1.conv2b."),
    (re.compile(r"^(conv[234]\.\d)\.conv2\.2\.layers\."), r"\1.conv2c."),
    (re.compile(r"^(conv[234]\.\d)\.conv2\.3\.layers\."), r"\1.conv2d."),
    (re.compile(r"^(conv[234]\.\d)\.IN\."), r"\1.conv3.bn."),
    (re.compile(r"^pool([23])\.0\."), r"conv\1.2.0."),
)


@dataclass(frozen=True, kw_only=True)
class OSNetConfig(FamilyConfig):
    """Everything that fixes the computation.

    `channels` are those of the first convolution and of the three stages. `variant` says where instance norms are:
    plain, ibn or ain. `feature_length` is the width of `fc`, whose output is the feature: there is no neck.
    """

    recorded_as: ClassVar[str | None] = "osnet"
    no_neck: ClassVar[str | None] = "OSNet has no neck: its feature is the output of fc"
    default_maps: ClassVar[tuple[str, ...]] = ("activation", "gradcam++/conv5", "hirescam/conv5")
    assumed: ClassVar[Mapping[str, str]] = {"image_size": "image size", "mean": "mean", "std": "std"}

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: tuple[int, int, int, int] = (64, 256, 384, 512)
    variant: str = "plain"
    feature_length: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("variant", self.variant, tuple(_VARIANTS))
        if any(side < _CELL or side % _CELL for side in self.image_size):
            raise ModelError(f"image size {self.image_size}: the sides must be multiples of {_CELL} pixels for OSNet")
        least = NARROWER * GATE_NARROWER
        if any(width < least or width % NARROWER for width in self.channels[1:]):
            raise ModelError(f"channels {self.channels}: a stage has at least {least}, a multiple of {NARROWER}")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the places of the last layer."""
        return self.image_size[0] // _CELL, self.image_size[1] // _CELL

    @property
    def cell(self) -> tuple[int, int]:
        """The square of pixels that a place stands for; it sees far more of the image than that."""
        return _CELL, _CELL

    @property
    def feature_dim(self) -> int:
        """Length of the retrieval feature, 512 in all published models."""
        return self.feature_length

    @property
    def facts(self) -> Mapping[str, str]:
        """The width and the norms, for people."""
        channels = ", ".join(map(str, self.channels))
        norms = {"plain": "no instance norms", "ibn": "instance norms (IBN)", "ain": "instance norms (AIN)"}
        return {"network": f"x{self.channels[3] / _FULL_WIDTH:g}, channels {channels}, {norms[self.variant]}"}


@dataclass(frozen=True, kw_only=True)
class OSNetEncoded:
    """The last convolution's output after its ReLU, (B, M, D). Nothing here carries a gradient."""

    places: Tensor


class OSNet(ReidModel[OSNetConfig, OSNetEncoded]):
    """OSNet for inference; submodules carry the names of its checkpoints."""

    has_attention = False

    def __init__(self, config: OSNetConfig) -> None:
        super().__init__(config)
        stem, *widths = config.channels
        norms = _VARIANTS[config.variant]
        stem_norm = nn.BatchNorm2d if config.variant == "plain" else nn.InstanceNorm2d
        self.conv1 = NormedConvolution(3, stem, 7, stride=2, norm=stem_norm)
        self.conv2 = omniscale_stage(stem, widths[0], norms[0], halved=True)
        self.conv3 = omniscale_stage(widths[0], widths[1], norms[1], halved=True)
        self.conv4 = omniscale_stage(widths[1], widths[2], norms[2], halved=False)
        self.conv5 = NormedConvolution(widths[2], widths[2])
        length = config.feature_length
        self.fc = nn.Sequential(nn.Linear(widths[2], length), nn.BatchNorm1d(length), nn.ReLU())
        self.classifier = nn.Linear(length, config.num_classes)

    @property
    def towers(self) -> tuple[nn.Module, ...]:
        """The convolutions. Norms stay in float32."""
        return tuple(module for module in self.modules() if isinstance(module, nn.Conv2d))

    @property
    def layers(self) -> Mapping[str, Layer]:
        """`conv5` alone, the last places before the mean."""
        return {"conv5": Layer(outputs=frozenset({"logits", "features"}), modules=("conv5",))}

    @property
    def native_maps(self) -> list[str]:
        """How active each place is, as torchreid draws it."""
        return [ACTIVATION]

    @property
    def random_levels(self) -> Mapping[str, tuple[str, ...]]:
        """The feature's layer and the classifier; then all."""
        return {"head": ("fc.", "classifier."), "head and tower": ("",)}

    @torch.no_grad()
    def encode(self, images: Tensor, cameras: Cameras | None = None, captions: Captions | None = None) -> OSNetEncoded:
        """(B, 3, H, W) uint8 RGB or normalised floats -> everything up to `conv5`, without gradient.

        Raises ModelError if cameras or captions are given, and ValueError for images of another size than configured.
        """
        self.refuse_captions(captions)
        refuse_cameras(cameras)
        x = self.prepare(images)
        check_size(x, self.config.image_size)
        # The channels of a place side by side: half the time on a CPU, and `head` takes them so.
        x = x.to(self.dtype, memory_format=torch.channels_last)
        x = F.max_pool2d(self.conv1(x), 3, stride=2, padding=1)
        x = self.conv5(self.conv4(self.conv3(self.conv2(x))))
        return OSNetEncoded(places=x.flatten(2).transpose(1, 2))

    def head(
        self,
        encoded: OSNetEncoded,
        taps: Collection[str] = (),
        head: str | None = None,
        native: Collection[str] | None = None,
    ) -> HeadOutput:
        """The mean over the places, `fc` and the classifier. Gradients exist from `conv5` on where it is named."""
        self.check_taps(taps)
        self.check_head(head)
        kept, wide = Taps(taps), self.classifier.weight.dtype
        with torch.set_grad_enabled(bool(taps)):
            places = kept.open_patches("conv5", encoded.places)
            features = self.fc(places.to(wide).mean(dim=1))
            logits = self.classifier(features)
        return HeadOutput(
            logits=logits,
            scores=logits,
            features=features,
            native_maps={ACTIVATION: encoded.places.to(wide).square().sum(dim=2)},
            attention_heads=encoded.places.new_zeros(len(places), 0, places.shape[1]),
            taps=kept.found,
        )


@dataclass(frozen=True)
class OSNetFamily:
    """OSNet or one of its variants with instance norms."""

    name: str
    variant: str
    signature: Signature
    config: type[FamilyConfig] = OSNetConfig
    source: str = "github.com/KaiyangZhou/deep-person-reid (torchreid)"

    def read(self, tensors: Mapping[str, Tensor], stated: Stated) -> ReadTensors:
        """The configuration that follows from the shapes and from what is stated; all tensors are used."""
        names = {key: _from_ain(key) if self.variant == "ain" else key for key in tensors}
        return ReadTensors(
            config=_infer(tensors, self.variant, stated.fields),
            tensors={names[key]: tensor for key, tensor in tensors.items()},
        )

    def build(self, config: FamilyConfig) -> AnyModel:
        """A model with random weights."""
        return OSNet(cast(OSNetConfig, config))


def _infer(tensors: Mapping[str, Tensor], variant: str, given: Mapping[str, FieldValue]) -> OSNetConfig:
    stages = (shape_of(tensors, f"conv{stage}.0.conv3.conv.weight", 4)[0] for stage in (2, 3, 4))
    known: dict[str, FieldValue] = {
        "channels": (shape_of(tensors, "conv1.conv.weight", 4)[0], *stages),
        "variant": variant,
        "feature_length": shape_of(tensors, "fc.0.weight")[0],
        "num_classes": shape_of(tensors, "classifier.weight")[0],
    }
    refuse_contradictions(given, known)
    return OSNetConfig.from_fields({**given, **known})


def _from_ain(key: str) -> str:
    for pattern, replacement in _FROM_AIN:
        key = pattern.sub(replacement, key)
    return key


_STEM, _FEATURE = r"^conv1\.conv\.weight$", r"^fc\.0\.weight$"
_AIN_STREAMS = r"^conv2\.0\.conv2\.0\."
FAMILIES = (
    OSNetFamily(
        "OSNet",
        "plain",
        Signature(has=(_STEM, r"^conv2\.0\.conv1\.conv\.weight$", _FEATURE), lacks=(r"\.IN\.weight$", _AIN_STREAMS)),
    ),
    OSNetFamily("OSNet-IBN", "ibn", Signature(has=(_STEM, r"^conv2\.0\.IN\.weight$", _FEATURE), lacks=(_AIN_STREAMS,))),
    OSNetFamily("OSNet-AIN", "ain", Signature(has=(_STEM, _AIN_STREAMS, _FEATURE))),
)
