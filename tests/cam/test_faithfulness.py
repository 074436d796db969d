"""Deletion and insertion against hand computation, every order of a small grid, and a made-up score."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from cam.errors import CamError
from cam.faithfulness import (
    KINDS,
    ClassScore,
    CosineScore,
    area,
    blur,
    curves,
    descending_order,
    mean_colour,
    passes,
    patch_of_pixel,
    removal_counts,
)
from promptsg_core.families.promptsg.config import ModelConfig
from tests.promptsg_core.test_model import build
from tests.support.tiny import TINY, random_images, tiny_state

GRID, SIZE = (2, 2), (4, 4)
PATCHES = patch_of_pixel(SIZE, 2, 2, GRID)
WEIGHTS = torch.tensor([4.0, 1.0, 3.0, 2.0])


def linear(images: Tensor, numbers: Tensor) -> Tensor:
    """The weights of the patches that are white, and the number of the image as a second score."""
    seen = images[:, 0].flatten(1).double() / 255 @ (WEIGHTS.double()[PATCHES.flatten()] / 4).unsqueeze(1)
    return torch.cat([seen, numbers.unsqueeze(1).double()], dim=1)


def white(count: int = 1) -> Tensor:
    return torch.full((count, 3, *SIZE), 255, dtype=torch.uint8)


def linear_curves(orders: list[tuple[int, ...]], steps: int = 4, **options: Any) -> Tensor:
    """(2, O, K+1) of one white image before a black fill."""
    found = curves(white(), [torch.zeros_like(white())], torch.tensor([orders]), PATCHES, removal_counts(4, steps),
                   linear, **options)  # fmt: skip
    return found[0, :, 0, :, :, 0]


def test_curves_of_a_linear_score_by_hand() -> None:
    deletion, insertion = linear_curves([(0, 2, 3, 1), (1, 3, 2, 0)])
    assert deletion.tolist() == [[10, 6, 3, 1, 0], [10, 9, 7, 4, 0]]
    assert insertion.tolist() == [[0, 4, 7, 9, 10], [0, 1, 3, 6, 10]]
    counts = removal_counts(4, 4)
    # Trapezoids of width 1/4: (10 + 6) / 8 + (6 + 3) / 8 + (3 + 1) / 8 + (1 + 0) / 8 = 30 / 8, and so on.
    assert area(deletion, counts).tolist() == [30 / 8, 50 / 8] and area(insertion, counts).tolist() == [50 / 8, 30 / 8]
    assert linear_curves([(0, 2, 3, 1)], steps=2).tolist() == [[[10, 3, 0]], [[0, 7, 10]]]
    assert linear_curves([(0, 2, 3, 1)], steps=1).tolist() == [[[10, 0]], [[0, 10]]]


def test_the_true_order_is_the_best_of_all_and_random_lies_half_way() -> None:
    orders = list(itertools.permutations(range(4)))
    deletion, insertion = area(linear_curves(orders), removal_counts(4, 4))
    best, worst = orders.index((0, 2, 3, 1)), orders.index((1, 3, 2, 0))
    assert deletion.argmin() == best == insertion.argmax() and (deletion == deletion[best]).sum() == 1
    assert deletion.argmax() == worst == insertion.argmin()
    # The mean over all orders falls along a straight line from 10 to 0.
    assert float(deletion.mean()) == pytest.approx(5) and float(insertion.mean()) == pytest.approx(5)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_batches_change_nothing_and_images_do_not_mix(batch_size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (5, 3, *SIZE), generator=generator, dtype=torch.uint8)
    fills = [blur(images, 1.0), mean_colour(images)]
    orders = torch.stack([torch.stack([torch.randperm(4, generator=generator) for _ in range(3)]) for _ in range(5)])
    counts, seen = removal_counts(4, 3), []

    def score(some: Tensor, numbers: Tensor) -> Tensor:
        assert len(some) <= batch_size and some.dtype == torch.uint8
        seen.append(len(some))
        return linear(some, numbers)

    found = curves(images, fills, orders, PATCHES, counts, score, batch_size=batch_size)
    assert found.shape == (2, 2, 5, 3, 4, 2) and sum(seen) == 5 * passes(3, 2, 3)
    for f, kind, b, o, k in itertools.product(range(2), range(2), range(5), range(3), range(4)):
        expected = images[b].clone()
        for patch in range(4):
            removed = (patch in orders[b, o, : counts[k]].tolist()) == (KINDS[kind] == "deletion")
            if removed:
                y, x = 2 * (patch // 2), 2 * (patch % 2)
                expected[:, y : y + 2, x : x + 2] = fills[f][b, :, y : y + 2, x : x + 2]
        torch.testing.assert_close(found[f, kind, b, o, k], linear(expected[None], torch.tensor([b]))[0].float())


def test_both_ends_are_the_image_and_the_fill() -> None:
    images = torch.randint(0, 256, (2, 3, *SIZE), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    fill, orders, numbers = mean_colour(images), torch.tensor([[[3, 1, 0, 2]]] * 2), torch.arange(2)
    found = curves(images, [fill], orders, PATCHES, removal_counts(4, 4), linear)[0, :, :, 0]
    for ends, whole in ((found[0, :, 0], images), (found[1, :, -1], images), (found[0, :, -1], fill),
                        (found[1, :, 0], fill)):  # fmt: skip
        torch.testing.assert_close(ends, linear(whole, numbers).float(), rtol=0, atol=0)


def test_equal_values_are_ordered_along_the_rows() -> None:
    maps = torch.tensor([[[0.0, 2.0, 0.0], [2.0, 0.0, 3.0]], [[0.0, 0.0, -0.0], [0.0, 0.0, 0.0]]])
    assert descending_order(maps).tolist() == [[5, 1, 3, 0, 2, 4], [0, 1, 2, 3, 4, 5]]


def test_removal_counts_are_even_and_bounded() -> None:
    assert removal_counts(128, 16).tolist() == list(range(0, 129, 8))
    assert removal_counts(10, 4).tolist() == [0, 3, 5, 8, 10] and removal_counts(3, 3).tolist() == [0, 1, 2, 3]
    for steps in (0, 5):
        with pytest.raises(CamError, match="take from 1 to 4"):
            removal_counts(4, steps)


def test_every_pixel_belongs_to_the_patch_with_the_nearest_centre() -> None:
    assert PATCHES.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    size, patch, stride = (64, 32), 16, 12  # overlapping patches: 5 x 2 of them, the last rows in none
    grid = (5, 2)
    found = patch_of_pixel(size, patch, stride, grid)
    centres = [(12 * i + 8, 12 * j + 8) for i in range(5) for j in range(2)]
    for y, x in itertools.product(range(64), range(32)):
        distances = [abs(y + 0.5 - cy) + abs(x + 0.5 - cx) for cy, cx in centres]
        assert distances[found[y, x]] == min(distances)
    assert sorted(found.unique().tolist()) == list(range(10))


def test_fills_are_exact() -> None:
    images = random_images(ModelConfig(**TINY), 3, seed=3)
    mean = mean_colour(images)
    for image, filled in zip(images.numpy(), mean.numpy(), strict=True):
        for channel, value in zip(image, filled, strict=True):
            assert np.ptp(value) == 0 and value[0, 0] == np.rint(channel.mean(dtype=np.float64))
    for sigma in (0.7, 2.0, 9.0):  # the last is wider than the image
        wanted = gaussian_filter(images.numpy().astype(np.float64), (0, 0, sigma, sigma), mode="nearest", truncate=4.0)
        np.testing.assert_allclose(blur(images, sigma).numpy(), wanted, atol=0.501)


def test_scores_are_those_of_the_model() -> None:
    config, state = tiny_state()
    model, images = build(config, state, torch.float32), random_images(config, 4)
    classes, numbers = torch.tensor([6, 0, 3]), torch.tensor([2, 0, 2, 1])
    logits, features = (getattr(model.head(model.encode(images)), name) for name in ("logits", "features"))
    found = ClassScore(model, classes)(images, numbers)
    wanted = classes[numbers]
    torch.testing.assert_close(found[:, 1], logits[torch.arange(4), wanted])
    torch.testing.assert_close(found[:, 0], logits.softmax(dim=1)[torch.arange(4), wanted])
    cosines = CosineScore(model, features[:3])(images, numbers)[:, 0]
    torch.testing.assert_close(cosines, torch.cosine_similarity(features, features[numbers]))
    with pytest.raises(CamError, match="class 7 was requested; the head has 7"):
        ClassScore(model, torch.tensor([7]))(images[:1], torch.tensor([0]))
