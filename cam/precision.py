"""Low precision and gradients: what is cast before arithmetic, and what a score is scaled by."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

# Gradients of a score in fp16 fall below its smallest number. The score is scaled up by this and the gradients down.
FP16_SCALE = 1024.0


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is if it is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Arithmetic in the tensors' own types on this tensor's device, also where the caller has switched autocast on."""
    return torch.autocast(tensor.device.type, enabled=False)


def score_scale(*tensors: Tensor) -> float:
    """What to multiply a score by before it is differentiated by these tensors."""
    return FP16_SCALE if any(tensor.dtype == torch.float16 for tensor in tensors) else 1.0


def scaled_gradients(score: Tensor, inputs: Sequence[Tensor], scale: float) -> tuple[Tensor, ...]:
    """(B,) score -> the gradient of the sum of its rows by each input, times `scale`."""
    return torch.autograd.grad(score, inputs, torch.full_like(score, scale))
