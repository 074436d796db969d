"""CAM methods: pure functions of activations and gradients, one per paper.

Legend: B batch, M patches, D channels. Activations are (B, M, D). Gradients are (B, M, D), or (B, 1, D) where all
patches share one gradient. All arithmetic is in the inputs' type: cast low precision to float32 first. The maps cannot
be differentiated, since some steps are in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Method = Callable[[Tensor, Tensor], Tensor]


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """(B, M, D), (B, M or 1, D) -> (B, M), >= 0: relu(sum_d w_d A_d) with w the mean gradient over the patches.

    Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.
    """
    weights = gradients.mean(dim=1)
    return torch.relu(_weighted(activations, weights))


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """(B, M, D), (B, M or 1, D) -> (B, M), >= 0: relu(sum_d g_d A_d), position by position.

    Draelos and Carin 2020, arXiv:2011.08891, equation 4, with the ReLU of GradCAM.
    """
    return torch.relu((activations * gradients).sum(dim=2))


def gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """(B, M, D), (B, M or 1, D) -> (B, M), >= 0: GradCAM++ on the same network written with rectified features.

    Chattopadhay et al. 2018, arXiv:1710.11063, equation 19, assumes A >= 0. Signed activations are split into two
    non-negative channels, A = relu(A) - relu(-A), with gradients g and -g; where A >= 0 this is the paper's formula.
    """
    signs = torch.arange(1, -2, -2, dtype=activations.dtype, device=activations.device).view(2, 1, 1, 1)
    channels, slopes = ((signs * one).flatten(0, 1) for one in (activations, gradients))  # of both signs, at once
    positive, negative = _weighted(channels.relu_(), _alpha_weights(channels, slopes)).chunk(2)
    return positive + negative


def gradcam_plus_plus_paper(activations: Tensor, gradients: Tensor) -> Tensor:
    """(B, M, D), (B, M or 1, D) -> (B, M), >= 0: arXiv:1710.11063 equation 19 to the letter, for signed A too.

    On transformers it is singular where 2 + sum(A) g is near zero, and many maps are all zero.
    """
    return torch.relu(_weighted(activations, _alpha_weights(activations, gradients)))


def _alpha_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """(B, M, D) A, (B, M or 1, D) g -> (B, D): the sum over the patches of alpha relu(g).

    alpha = g^2 / (2 g^2 + sum(A) g^3) is 1 / (2 + sum(A) g) for g != 0. g is never squared, since that would underflow.
    With relu(g) in the denominator too, alpha relu(g) is the same where g > 0 and 0 elsewhere, without a mask.
    """
    positive = torch.relu(gradients)
    total = activations.sum(dim=1, keepdim=True)
    weights = positive.div_((total * positive).add_(2)).sum(dim=1)
    patches = activations.shape[1] // gradients.shape[1]  # that share one gradient
    return weights if patches == 1 else weights * patches


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """(B, M, D), (B, D) -> (B, M): the weighted sum over the channels."""
    return torch.bmm(activations, weights.unsqueeze(2)).squeeze(2)


METHODS: Mapping[str, Method] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
}
# What `gradcam++` may be computed as.
GRADCAM_PLUS_PLUS_FORMS: Mapping[str, Method] = {"rectified": gradcam_plus_plus, "paper": gradcam_plus_plus_paper}
