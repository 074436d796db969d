"""OSNet's blocks (Zhou et al. 2019, arXiv:1905.00953; with instance norms arXiv:1910.06827), for inference.

A block looks at four scales at once, by one to four light 3x3 convolutions in a row, and weighs them by one gate. The
parts are named as in torchreid. Legend: B batch, I and O channels in and out, D channels, h w places.
"""

from __future__ import annotations

from enum import Enum

from torch import Tensor, nn

from promptsg_core.towers.convolutions import NormedConvolution, normed_convolution

NARROWER = 4  # a block's streams have a quarter of its channels,
GATE_NARROWER = 16  # and the gate a sixteenth of theirs


class BlockNorm(Enum):
    """Where a block has an instance norm: nowhere, on what is added to its input, or after that sum."""

    NONE = "none"
    INSIDE = "inside"
    AFTER = "after"


class LightConvolution(nn.Module):
    """A 1x1 convolution, a 3x3 convolution of each channel alone, batch norm, ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        return normed_convolution(self.conv1(x), self.conv2, self.bn).relu_()


class ChannelGate(nn.Module):
    """Multiplies each channel by a factor from 0 to 1, which follows from the means of all channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // GATE_NARROWER, 1)
        self.fc2 = nn.Conv2d(width // GATE_NARROWER, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        inner: Tensor = self.fc1(x.mean(dim=(2, 3), keepdim=True))
        factors: Tensor = self.fc2(inner.relu()).sigmoid()
        return x * factors


class OmniScaleBlock(nn.Module):
    """Four gated streams, whose sum is added to the input; then ReLU."""

    def __init__(self, inside: int, outside: int, norm: BlockNorm = BlockNorm.NONE) -> None:
        super().__init__()
        width = outside // NARROWER
        inner = nn.InstanceNorm2d if norm is BlockNorm.INSIDE else nn.BatchNorm2d
        self.conv1 = NormedConvolution(inside, width)
        self.conv2a = LightConvolution(width)
        self.conv2b = nn.Sequential(*(LightConvolution(width) for _ in range(2)))
        self.conv2c = nn.Sequential(*(LightConvolution(width) for _ in range(3)))
        self.conv2d = nn.Sequential(*(LightConvolution(width) for _ in range(4)))
        self.gate = ChannelGate(width)
        self.conv3 = NormedConvolution(width, outside, linear=True, norm=inner)
        self.downsample = NormedConvolution(inside, outside, linear=True) if inside != outside else None
        self.IN = nn.InstanceNorm2d(outside, affine=True) if norm is BlockNorm.AFTER else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, h, w) -> (B, O, h, w)."""
        narrow = self.conv1(x)
        streams: Tensor = self.gate(self.conv2a(narrow))
        for stream in (self.conv2b, self.conv2c, self.conv2d):
            streams = streams + self.gate(stream(narrow))
        found: Tensor = self.conv3(streams) + (x if self.downsample is None else self.downsample(x))
        return (found if self.IN is None else self.IN(found)).relu_()


def omniscale_stage(inside: int, outside: int, norms: tuple[BlockNorm, BlockNorm], *, halved: bool) -> nn.Sequential:
    """Two blocks, (B, I, h, w) -> (B, O, h, w), then half as many rows and columns where `halved`."""
    blocks = [OmniScaleBlock(inside, outside, norms[0]), OmniScaleBlock(outside, outside, norms[1])]
    if not halved:
        return nn.Sequential(*blocks)
    return nn.Sequential(*blocks, nn.Sequential(NormedConvolution(outside, outside), nn.AvgPool2d(2)))
