"""Linear layers over tokens, by whichever of torch's kernels is fastest where they run; the results are the same.

Legend: B batch, N tokens, I and O channels in and out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDE = 256  # channels; the gain is in large products, and small ones keep one kernel at all batch sizes
_LEAST_TOKENS = 128
_LEAST_BATCH = 16  # with one thread torch gives smaller batches to another kernel, which gains nothing


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, N, I), (O, I), (O,) -> (B, N, O), as torch.nn.functional.linear.

    On a CPU a float32 layer of frozen weights runs as a convolution with 1x1 filters over channels-last tokens, which
    needs no copy: torch gives linear layers to MKL, which is slow on processors that are not Intel's, and convolutions
    to oneDNN. Half the time on an AMD EPYC (Zen 5, measured); with few tokens, laying out the weights takes what the
    product gains. In low precision linear layers go to oneDNN anyway.
    """
    if not _better_as_convolution(x, weight):
        return F.linear(x, weight, bias)
    pixels = x.unsqueeze(2).permute(0, 3, 1, 2)  # (B, I, N, 1), channels last
    return F.conv2d(pixels, weight[:, :, None, None], bias).permute(0, 2, 3, 1).flatten(1, 2)


def _better_as_convolution(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 3 or not _onednn():
        return False
    if (torch.is_grad_enabled() and weight.requires_grad) or torch.is_autocast_enabled("cpu"):
        return False
    if x.shape[0] < _LEAST_BATCH and torch.get_num_threads() == 1:
        return False
    return min(weight.shape) >= _WIDE and x.shape[0] * x.shape[1] >= _LEAST_TOKENS


def _onednn() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


class Linear(nn.Linear):
    """torch.nn.Linear over (B, N, I) tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, I) -> (B, N, O)."""
        return linear(x, self.weight, self.bias)
