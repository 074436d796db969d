"""GradCAM and rectified GradCAM++ of float32 tensors on a CPU, in three sweeps over each image.

The maps are those of `cam.methods`. The 19 steps there are passes over tensors that no cache holds: on two cores they
take three times as long as these loops on one. Legend: B batch, M patches, D channels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cam.compiled import compiled
from cam.methods import Method, gradcam, gradcam_plus_plus

Float32Array = NDArray[np.float32]

_THREADS = 4  # with more threads the methods' own steps are as fast
_LARGE = 1 << 15  # activations of an image; smaller tensors stay in a cache, and compiling would take longer


def can_sweep(activations: Tensor, gradients: Tensor) -> bool:
    """Whether the loops take such tensors, float32 on a CPU with a gradient for every patch, and are faster."""
    kind = (activations.device.type, activations.dtype, gradients.dtype)
    if kind != ("cpu", torch.float32, torch.float32) or activations.shape != gradients.shape:
        return False
    return activations[0].numel() >= _LARGE and torch.get_num_threads() <= _THREADS


def sweep(activations: Tensor, gradients: Tensor) -> dict[Method, Tensor]:
    """(B, M, D), (B, M, D) -> (B, M) of both methods, by method. Neither tensor may require a gradient.

    Both maps of an image are NaN where one of its activations, gradients or their sums is not finite.
    """
    count, patches, channels = activations.shape
    plain, rectified = np.empty((count, patches), np.float32), np.empty((count, patches), np.float32)
    positive, negative, mean, of_positive, of_negative = sums = np.empty((5, channels), np.float32)
    for row in range(count):
        image, slopes = activations[row].numpy(), gradients[row].numpy()
        sums[:] = 0
        _sum_channels(image, slopes, positive, negative, mean)
        mean /= patches
        _sum_weights(slopes, positive, negative, of_positive, of_negative)
        if not np.isfinite(sums).all():
            sums[:] = np.nan
        _weigh_channels(image, mean, of_positive, of_negative, plain[row], rectified[row])
    return {gradcam: torch.from_numpy(plain), gradcam_plus_plus: torch.from_numpy(rectified)}


@compiled
def _sum_channels(
    activations: Float32Array,
    gradients: Float32Array,
    positive: Float32Array,
    negative: Float32Array,
    gradient: Float32Array,
) -> None:
    """Adds up (M, D) relu(A), relu(-A) and g into (D,) each."""
    for m in range(activations.shape[0]):
        for d in range(activations.shape[1]):
            positive[d] += max(activations[m, d], np.float32(0))
            negative[d] += max(-activations[m, d], np.float32(0))
            gradient[d] += gradients[m, d]


@compiled
def _sum_weights(
    gradients: Float32Array,
    positive: Float32Array,
    negative: Float32Array,
    of_positive: Float32Array,
    of_negative: Float32Array,
) -> None:
    """Adds up, over the patches, alpha relu(g) for relu(A) and alpha relu(-g) for relu(-A), into (D,) each.

    alpha relu(g) is relu(g) / (2 + sum(A) relu(g)), as in `cam.methods`. `positive` and `negative` are the sums of A.
    """
    for m in range(gradients.shape[0]):
        for d in range(gradients.shape[1]):
            up, down = max(gradients[m, d], np.float32(0)), max(-gradients[m, d], np.float32(0))
            of_positive[d] += up / (np.float32(2) + positive[d] * up)
            of_negative[d] += down / (np.float32(2) + negative[d] * down)


@compiled
def _weigh_channels(
    activations: Float32Array,
    mean: Float32Array,
    of_positive: Float32Array,
    of_negative: Float32Array,
    plain: Float32Array,
    rectified: Float32Array,
) -> None:
    """The weighted sums over the channels, (M, D) and (D,) weights -> `plain` and `rectified` (M,)."""
    for m in range(activations.shape[0]):
        sum_plain, sum_rectified = np.float32(0), np.float32(0)
        for d in range(activations.shape[1]):
            a = activations[m, d]
            sum_plain += a * mean[d]
            sum_rectified += max(a, np.float32(0)) * of_positive[d] + max(-a, np.float32(0)) * of_negative[d]
        plain[m] = max(sum_plain, np.float32(0)) if sum_plain == sum_plain else sum_plain
        rectified[m] = sum_rectified
