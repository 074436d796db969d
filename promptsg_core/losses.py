"""The three losses that PromptSG is trained with: identity, batch-hard triplet, symmetric supervised contrastive.

Each is a mean over the batch, computed in float32 or wider for inputs of any type.
Legend: B batch, C classes, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST_SQUARE = 1e-12  # a smaller squared distance counts as this one: the root has no gradient at zero


def identity_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """(B, C) logits and (B,) classes -> cross-entropy against (1 - smoothing) one-hot + smoothing / C.

    Label smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    return F.cross_entropy(_wide(logits), labels, label_smoothing=smoothing)


def triplet_loss(features: Tensor, labels: Tensor, margin: float = 0.3) -> Tensor:
    """(B, D) features and (B,) classes -> mean of relu(margin + farthest positive - nearest negative), Euclidean.

    Every row is an anchor. A batch of one class has no negative, and its loss is 0.
    Batch-hard triplets: Hermans et al. 2017, arXiv:1703.07737, eq. 5.
    """
    distances = pairwise_distances(_wide(features))
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    farthest = distances.masked_fill(~same, 0.0).amax(dim=1)
    nearest = distances.masked_fill(same, torch.inf).amin(dim=1)
    return F.relu(margin + farthest - nearest).mean()


def pairwise_distances(features: Tensor) -> Tensor:
    """(B, D) -> (B, B) Euclidean distances, with a finite gradient everywhere."""
    squares = features.square().sum(dim=1)
    squared = squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * features @ features.T
    return squared.clamp_min(_SMALLEST_SQUARE).sqrt()


def contrastive_loss(images: Tensor, texts: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """(B, D) image and text features and (B,) classes -> the loss from image to text plus that from text to image.

    With cosine similarity s and P(i) the rows of i's class, one direction is the mean over i of
    -1/|P(i)| sum_{p in P(i)} log(exp(s(i, p)/temperature) / sum_j exp(s(i, j)/temperature)).
    Supervised contrastive loss: Khosla et al. 2020, arXiv:2004.11362, eq. 2, here between two modalities as in
    CLIP-ReID (Li et al. 2023, arXiv:2211.13977, eq. 3 and 4).
    """
    similarity = F.normalize(_wide(images), dim=1) @ F.normalize(_wide(texts), dim=1).T / temperature
    same = (labels.unsqueeze(0) == labels.unsqueeze(1)).to(similarity.dtype)
    positives = same / same.sum(dim=1, keepdim=True)
    to_text = -(positives * similarity.log_softmax(dim=1)).sum(dim=1).mean()
    to_image = -(positives * similarity.T.log_softmax(dim=1)).sum(dim=1).mean()
    return to_text + to_image


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
