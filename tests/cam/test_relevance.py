"""Rollout and gradient-weighted relevance against the papers' matrix products, written out literally."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cam import CamError, extract_maps
from cam.relevance import chefer, rollout
from cam.targets import class_target, similarity_target
from tests.promptsg_core.test_model import build, reference_of
from tests.support.tiny import random_images, tiny_state


def literal_rollout(weights: list[Tensor]) -> Tensor:
    """arXiv:2005.00928: A~_i = 0.5 A + 0.5 I, row-normalised; A~ = A~_L ... A~_1; the CLS row without CLS."""
    count = weights[0].shape[-1]
    product = torch.eye(count, dtype=weights[0].dtype)
    for block in weights:
        mixed = 0.5 * block.mean(0) + 0.5 * torch.eye(count, dtype=block.dtype)
        product = (mixed / mixed.sum(-1, keepdim=True)) @ product
    return product[0, 1:].detach()


def literal_chefer(weights: list[Tensor], score: Tensor) -> Tensor:
    """arXiv:2103.15679, self-attention: R = I; per block R = R + E_h[(grad * A)+] R; the CLS row without CLS."""
    relevance = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype)
    for block in weights:
        (gradient,) = torch.autograd.grad(score, block, retain_graph=True)
        relevance = relevance + torch.relu(gradient * block.detach()).mean(0) @ relevance
    return relevance[0, 1:]


@pytest.mark.parametrize("mode", ["composed", "simplified"])
@pytest.mark.parametrize("target", ["predicted", "feature", "similarity"])
def test_both_methods_equal_the_literal_products(mode: str, target: str) -> None:
    config, state = tiny_state(prompt_mode=mode)
    model = build(config, state)
    images = random_images(config, 2)
    other = torch.randn(2, config.feature_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    chosen = similarity_target(other) if target == "similarity" else target
    result = extract_maps(model, images, ["rollout", "chefer", "mim_attention"], chosen)
    for row, image in enumerate(images):
        reference = reference_of(config, state, image, whole=True)
        features = reference.values["features_before"]
        score = {
            "predicted": reference.values["logits_proj"].max(),
            "feature": features.sum(),
            "similarity": torch.cosine_similarity(features, other[row], dim=0),
        }[target]
        assert len(reference.weights) == config.vision_layers + config.mim_layers
        wanted = literal_rollout(reference.weights)
        torch.testing.assert_close(result.maps["rollout"][row].flatten(), wanted, rtol=1e-6, atol=1e-9)
        wanted = literal_chefer(reference.weights, score)
        peak = wanted.max().item()
        torch.testing.assert_close(result.maps["chefer"][row].flatten(), wanted, rtol=1e-5, atol=1e-6 * peak)


def test_two_tokens_by_hand() -> None:
    # One head, CLS and one patch. A~ = [[.75, .25], [0, 1]] after [[1, 0], [.25, .75]]: row 0 is (.8125, .1875).
    first = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    last = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]])
    torch.testing.assert_close(rollout([first, last]), torch.tensor([[0.1875]]))
    # relu(g * A): first [[0, 0], [.5, 0]], last [[0, .5], [0, 0]]; R = (I + last)(I + first), row 0 (1.25, .5).
    gradients = [torch.tensor([[[[-1.0, 3.0], [1.0, -1.0]]]]), torch.tensor([[[[0.0, 1.0], [7.0, -2.0]]]])]
    torch.testing.assert_close(chefer([first, last], gradients), torch.tensor([[0.5]]))


def test_rollout_of_blocks_that_attend_to_themselves_stays_on_cls() -> None:
    eye = torch.eye(5).expand(1, 2, 5, 5)
    assert rollout([eye, eye]).abs().max() == 0


def test_label_and_predicted_agree_where_the_prediction_is_right() -> None:
    config, state = tiny_state()
    model = build(config, state, torch.float32)
    images = random_images(config, 8)
    maps = ["gradcam/mim", "gradcam++/classifier", "chefer"]
    predicted = extract_maps(model, images, maps)
    labels = predicted.predicted.clone()
    labels[::2] = (labels[::2] + 1) % config.num_classes
    label = extract_maps(model, images, maps, class_target(labels))
    for name in maps:
        same = [torch.equal(a, b) for a, b in zip(predicted.maps[name], label.maps[name], strict=True)]
        assert same == [False, True] * 4, name
    logits = model.forward_with_attention(images)["logits"][1]
    torch.testing.assert_close(label.score, logits.gather(1, labels[:, None])[:, 0])


def test_a_class_that_the_head_lacks_is_refused() -> None:
    config, state = tiny_state()
    with pytest.raises(CamError, match="classes 9 to 9 were requested; the head has 7"):
        extract_maps(build(config, state, torch.float32), random_images(config, 1), ["gradcam/mim"], 9)
