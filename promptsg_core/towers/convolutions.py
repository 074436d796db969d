"""Convolutions with a norm after them, as CNNs are made of; for inference.

Legend: B batch, I and O channels in and out, h w places.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = type[nn.BatchNorm2d] | type[nn.InstanceNorm2d]


def normed_convolution(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d | nn.InstanceNorm2d) -> Tensor:
    """(B, I, h, w) -> (B, O, h', w'): a convolution without bias, then the norm as in evaluation.

    A batch norm is then a factor and a shift of each channel, which go into the convolution: a pass over the places
    would take longer. In low precision the weights are rounded twice, as they are converted and here, and the places
    once less. This is done at each call, since weights may be edited, and costs little beside a batch of images.
    """
    if isinstance(norm, nn.InstanceNorm2d):
        return F.instance_norm(conv(x), weight=norm.weight, bias=norm.bias, eps=norm.eps)
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    factor = norm.weight * torch.rsqrt(variance + norm.eps)
    weight, shift = conv.weight * factor.view(-1, 1, 1, 1), norm.bias - mean * factor
    return F.conv2d(x, weight.to(x.dtype), shift.to(x.dtype), conv.stride, conv.padding, conv.dilation, conv.groups)


class NormedConvolution(nn.Module):
    """A convolution without bias, a norm, and a ReLU unless it is `linear`; the parts are named as in torchreid."""

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        linear: bool = False,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.linear = linear
        self.conv = nn.Conv2d(inside, outside, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = norm(outside, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, h, w) -> (B, O, h', w')."""
        found = normed_convolution(x, self.conv, self.bn)
        return found if self.linear else found.relu_()
