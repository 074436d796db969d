"""The training losses against hand-computed values and against literal transcriptions with loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from promptsg_core.losses import contrastive_loss, identity_loss, pairwise_distances, triplet_loss


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """(9, 5) image and text features and labels, with classes of three, two and four rows."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([2, 0, 1, 2, 2, 0, 1, 0, 0])
    return torch.randn(9, 5, generator=generator), torch.randn(9, 5, generator=generator), labels


def test_identity_loss_by_hand() -> None:
    # Softmax of (ln 3, 0) is (3/4, 1/4); with smoothing 0.2 over two classes the target is (0.9, 0.1).
    logits = torch.tensor([[math.log(3), 0.0]])
    expected = -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4))
    assert identity_loss(logits, torch.tensor([0]), smoothing=0.2).item() == pytest.approx(expected, abs=1e-6)
    other = -(0.1 * math.log(3 / 4) + 0.9 * math.log(1 / 4))
    assert identity_loss(logits, torch.tensor([1]), smoothing=0.2).item() == pytest.approx(other, abs=1e-6)


def test_triplet_loss_by_hand() -> None:
    # On a line: class 0 at 0 and 3, class 1 at 4 and 4.2. Anchors: 3 - 4, 3 - 1, 0.2 - 1, 0.2 - 1.2, each + 0.3.
    features = torch.tensor([[0.0], [3.0], [4.0], [4.2]])
    labels = torch.tensor([0, 0, 1, 1])
    assert triplet_loss(features, labels, margin=0.3).item() == pytest.approx((0 + 2.3 + 0 + 0) / 4, abs=1e-5)


def test_triplet_loss_as_written(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    features, _, labels = batch
    terms = []
    for a in range(len(labels)):
        positives = [math.dist(features[a], features[p]) for p in range(len(labels)) if labels[p] == labels[a]]
        negatives = [math.dist(features[a], features[n]) for n in range(len(labels)) if labels[n] != labels[a]]
        terms.append(max(0.0, 0.3 + max(positives) - min(negatives)))
    assert triplet_loss(features, labels).item() == pytest.approx(sum(terms) / len(terms), abs=1e-5)


def test_distances_have_a_finite_gradient_where_rows_coincide() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(pairwise_distances(features).sum(), features)
    assert torch.equal(gradient, torch.zeros(4, 3))


def test_one_class_has_no_triplet() -> None:
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    loss = triplet_loss(features, torch.zeros(4, dtype=torch.long))
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros(4, 3))


def test_contrastive_loss_by_hand() -> None:
    # Two classes, each text equal to its image, the classes orthogonal: each row is softmax of (1, 0) / 0.5.
    vectors = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    one_way = math.log(1 + math.exp(-2))
    loss = contrastive_loss(vectors, 3 * vectors, torch.tensor([0, 1]), temperature=0.5)
    assert loss.item() == pytest.approx(2 * one_way, abs=1e-6)


def test_contrastive_loss_as_written(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    images, texts, labels = batch

    def one_way(anchors: Tensor, others: Tensor) -> float:
        total = 0.0
        for i in range(len(labels)):
            scores = [float(anchors[i] @ o / (anchors[i].norm() * o.norm())) / 0.1 for o in others]
            log_sum = math.log(sum(math.exp(s) for s in scores))
            positives = [j for j in range(len(labels)) if labels[j] == labels[i]]
            total += -sum(scores[j] - log_sum for j in positives) / len(positives)
        return total / len(labels)

    expected = one_way(images, texts) + one_way(texts, images)
    assert contrastive_loss(images, texts, labels).item() == pytest.approx(expected, rel=1e-5)


def test_low_precision_features_give_a_float32_loss(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    images, texts, labels = batch
    low, low_texts = images.bfloat16(), texts.bfloat16()
    assert torch.equal(triplet_loss(low, labels), triplet_loss(low.float(), labels))
    assert torch.equal(
        contrastive_loss(low, low_texts, labels), contrastive_loss(low.float(), low_texts.float(), labels)
    )
    assert identity_loss(low, labels).dtype == torch.float32
