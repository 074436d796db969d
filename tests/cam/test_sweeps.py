"""The compiled loops for GradCAM and GradCAM++ against numbers by hand and the methods in float64."""

from __future__ import annotations

import pytest
import torch

from cam.methods import gradcam, gradcam_plus_plus, hirescam
from cam.sweeps import can_sweep, sweep
from cam.weighing import weigh


def test_by_hand() -> None:
    # As in test_methods.py: two patches, two channels; and an image whose gradients are zero.
    activations = torch.tensor([[[1.0, -2.0], [3.0, 4.0]]]).repeat(2, 1, 1)
    gradients = torch.tensor([[[0.5, -1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    found = sweep(activations, gradients)
    torch.testing.assert_close(found[gradcam], torch.tensor([[1.5, 0.0], [0.0, 0.0]]))
    torch.testing.assert_close(found[gradcam_plus_plus], torch.tensor([[0.75, 0.75], [0.0, 0.0]]))


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 7, 5), (2, 128, 768)])
@pytest.mark.parametrize("scale", [1e-18, 1e-3, 30])
def test_equals_the_methods_in_float64(size: tuple[int, ...], scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(size, generator=generator)
    gradients = torch.randn(size, generator=generator) * scale
    for method, found in sweep(activations, gradients).items():
        exact = method(activations.double(), gradients.double())
        assert found.dtype == torch.float32 and found.shape == exact.shape
        assert (found - exact).abs().max() <= 3e-6 * max(exact.max(), scale)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [0, 1])
def test_non_finite_values_make_nan_of_their_own_image_alone(bad: float, where: int) -> None:
    pair = [torch.rand(2, 6, 4), torch.rand(2, 6, 4)]
    pair[where][0, 2, 1] = bad
    for method, found in sweep(*pair).items():
        assert found[0].isnan().all()
        torch.testing.assert_close(found[1:], method(pair[0][1:], pair[1][1:]))


def test_which_tensors_are_swept() -> None:
    large, threads = torch.rand(2, 64, 512), torch.get_num_threads()
    assert can_sweep(large, large)
    assert not can_sweep(large[:, :63], large[:, :63])
    assert not can_sweep(large.double(), large.double())
    assert not can_sweep(large, large[:, :1])
    assert not can_sweep(large.bfloat16(), large.bfloat16())
    try:
        torch.set_num_threads(16)
        assert not can_sweep(large, large)
    finally:
        torch.set_num_threads(threads)


def test_the_engine_takes_both_maps_from_one_sweep() -> None:
    generator = torch.Generator().manual_seed(1)
    activations, grad = torch.randn(3, 64, 512, generator=generator), torch.randn(3, 65, 512, generator=generator)
    methods = [hirescam, gradcam_plus_plus, gradcam]
    found = weigh(methods, activations, grad, 4.0)
    for method, maps in zip(methods, found, strict=True):
        exact = method(activations.double(), grad[:, 1:].double() / 4)
        assert (maps - exact).abs().max() <= 3e-6 * exact.max()
