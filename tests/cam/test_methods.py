"""CAM methods against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from cam.methods import gradcam, gradcam_plus_plus, gradcam_plus_plus_paper, hirescam

# One image, two patches, two channels.
A = torch.tensor([[[1.0, -2.0], [3.0, 4.0]]])
G = torch.tensor([[[0.5, -1.0], [0.5, 0.0]]])


def test_gradcam() -> None:
    # w = mean g = (0.5, -0.5): patch 0: 0.5*1 + 0.5*2 = 1.5; patch 1: 1.5 - 2 = -0.5 -> 0
    torch.testing.assert_close(gradcam(A, G), torch.tensor([[1.5, 0.0]]))


def test_hirescam() -> None:
    # patch 0: 0.5*1 + (-1)(-2) = 2.5; patch 1: 0.5*3 + 0 = 1.5
    torch.testing.assert_close(hirescam(A, G), torch.tensor([[2.5, 1.5]]))


def test_gradcam_plus_plus_paper() -> None:
    # Channel 0: sum A = 4, g = 0.5, alpha = 1/(2+2) = 1/4 twice, w = 2 * 0.25 * 0.5 = 0.25; channel 1: relu(g) = 0.
    torch.testing.assert_close(gradcam_plus_plus_paper(A, G), torch.tensor([[0.25, 0.75]]))


def test_gradcam_plus_plus_on_rectified_features() -> None:
    # Channel 0 as above. Channel 1, negative part: relu(-A) = (2, 0), sum 2, -g = (1, 0), alpha = 1/(2+2), w = 1/4.
    torch.testing.assert_close(gradcam_plus_plus(A, G), torch.tensor([[0.25 + 0.25 * 2, 0.75]]))


def test_the_rectified_form_is_the_papers_where_activations_are_not_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 6, 5, generator=generator)
    g = torch.randn(3, 6, 5, generator=generator)
    torch.testing.assert_close(gradcam_plus_plus(a, g), gradcam_plus_plus_paper(a, g))


def test_tiny_gradients_do_not_underflow() -> None:
    # The textbook's g^3 is 0 in float32 from 1e-15 on; the map must only scale.
    small = gradcam_plus_plus(A, G * 1e-18) / 1e-18
    alpha_half = torch.tensor([[0.5 * 1.0 + 0.5 * 2.0, 0.5 * 3.0]])  # alpha -> 1/2, w = (0.5*0.5*2, 0.5*1)
    torch.testing.assert_close(small, alpha_half)


@pytest.mark.parametrize("method", [gradcam, hirescam, gradcam_plus_plus, gradcam_plus_plus_paper])
def test_one_gradient_for_all_patches_is_that_gradient_at_each(method) -> None:  # type: ignore[no-untyped-def]
    g = torch.tensor([[[0.3, -0.7]]])
    torch.testing.assert_close(method(A, g), method(A, g.expand(1, 2, 2).contiguous()))


def test_zero_gradients_give_zero_maps_without_nan() -> None:
    for method in (gradcam, hirescam, gradcam_plus_plus, gradcam_plus_plus_paper):
        torch.testing.assert_close(method(A, torch.zeros_like(G)), torch.zeros(1, 2))
