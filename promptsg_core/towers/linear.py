"""Linear layers over tokens, computed by the fastest of torch's kernels for the processor; the results are the same.

Legend: B batch, N tokens, I and O channels in and out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDE = 256  # channels; only large products gain, and smaller ones keep one kernel at all batch sizes
_LEAST_TOKENS = 128
_LEAST_BATCH = 16  # with one thread torch gives smaller batches to another kernel, which is no faster


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(B, N, I), (O, I), (O,) -> (B, N, O), as torch.nn.functional.linear.

    On a CPU a float32 layer of frozen weights runs as a convolution with 1x1 filters over channels-last tokens, which
    needs no copy. Torch gives linear layers to MKL, which is slow on processors that are not Intel's, and convolutions
    to oneDNN. Measured: half the time on an AMD EPYC with AVX-512 (Zen 5), the same time with AVX2 (Zen 3). With few
    tokens, laying out the weights takes as long as the product gains. There the transposed product W x^T takes three
    quarters of the time of x W^T on two cores (Zen 3). In low precision torch gives linear layers to oneDNN itself.
    """
    kernel = _kernel(x, weight)
    if kernel == "convolution":
        pixels = x.unsqueeze(2).permute(0, 3, 1, 2)  # (B, I, N, 1), channels last
        found = F.conv2d(pixels, weight[:, :, None, None], bias)
        return found.permute(0, 2, 3, 1).flatten(1, 2)
    if kernel == "transposed":
        columns = x.flatten(0, 1).t()
        product = weight @ columns if bias is None else torch.addmm(bias.unsqueeze(1), weight, columns)
        return torch.unflatten(product.t(), 0, x.shape[:2])
    return F.linear(x, weight, bias)


def _kernel(x: Tensor, weight: Tensor) -> Literal["plain", "transposed", "convolution"]:
    if torch.compiler.is_compiling():  # the compiler chooses, and what follows would be compiled again for each case
        return "plain"
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
    available: Callable[[], bool] = torch.backends.mkldnn.is_available
    return bool(torch.backends.mkldnn.enabled) and available()


class Linear(nn.Linear):
    """torch.nn.Linear over (B, N, I) tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, I) -> (B, N, O)."""
        return linear(x, self.weight, self.bias)
