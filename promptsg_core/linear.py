"""Linear layers over tokens, by whichever of torch's kernels is fastest where they run; the results are the same.

Legend: B batch, N tokens, I and O channels in and out.
"""

from __future__ import annotations

from typing import Literal

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
    to oneDNN. Half the time on an AMD EPYC with AVX-512 (Zen 5, measured), the same with AVX2 (Zen 3). With few tokens
    laying out the weights takes what the product gains; there the transposed product W x^T takes three quarters of the
    time of x W^T on two cores (Zen 3). In low precision linear layers go to oneDNN anyway.
    """
    kernel = _kernel(x, weight)
    if kernel == "convolution":
        pixels = x.unsqueeze(2).permute(0, 3, 1, 2)  # (B, I, N, 1), channels last
        return F.conv2d(pixels, weight[:, :, None, None], bias).permute(0, 2, 3, 1).flatten(1, 2)
    if kernel == "transposed":
        columns = x.flatten(0, 1).t()
        product = weight @ columns if bias is None else torch.addmm(bias.unsqueeze(1), weight, columns)
        return product.t().unflatten(0, x.shape[:2])
    return F.linear(x, weight, bias)


def _kernel(x: Tensor, weight: Tensor) -> Literal["plain", "transposed", "convolution"]:
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 3 or not _onednn():
        return "plain"
    if (torch.is_grad_enabled() and weight.requires_grad) or torch.is_autocast_enabled("cpu"):
        return "plain"
    if min(weight.shape) < _WIDE:
        return "plain"
    alone = torch.get_num_threads() == 1
    if x.shape[0] * x.shape[1] < _LEAST_TOKENS:
        return "plain" if alone else "transposed"
    return "plain" if alone and x.shape[0] < _LEAST_BATCH else "convolution"


def _onednn() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


class Linear(nn.Linear):
    """torch.nn.Linear over (B, N, I) tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, I) -> (B, N, O)."""
        return linear(x, self.weight, self.bias)
