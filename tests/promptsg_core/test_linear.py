"""The linear layers' kernels against float64, forward and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from promptsg_core.towers import linear as module
from promptsg_core.towers.linear import Linear, linear


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """The kernels are chosen by the number of threads, which differs from machine to machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    ("batch", "tokens", "kernel"), [(16, 129, "convolution"), (17, 129, "convolution"), (9, 3, "transposed")]
)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients(
    dtype: torch.dtype, tolerance: float, batch: int, tokens: int, kernel: str, bias: bool
) -> None:
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, tokens, 256, generator=generator).to(dtype)
    layer = Linear(256, 320, bias=bias).to(dtype).requires_grad_(False)
    assert module._kernel(x, layer.weight) == (kernel if dtype == torch.float32 else "plain")
    found_x, exact_x = x.clone().requires_grad_(True), x.double().requires_grad_(True)
    found = layer(found_x)
    exact = torch.nn.functional.linear(exact_x, layer.weight.double(), layer.bias.double() if bias else None)
    weights = torch.randn(exact.shape, generator=generator)
    (found_g,) = torch.autograd.grad((found.float() * weights).sum(), found_x)
    (exact_g,) = torch.autograd.grad((exact * weights.double()).sum(), exact_x)
    for mine, wanted in ((found, exact), (found_g, exact_g)):
        assert mine.dtype == dtype and mine.shape == wanted.shape
        assert mine.is_contiguous() or kernel == "transposed"
        assert (mine.double() - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of torch itself, where flags are set
def test_where_the_convolution_does_not_pay_or_is_not_right() -> None:
    layer, x, kernel = Linear(256, 256), torch.randn(16, 9, 256), module._kernel
    assert kernel(x, layer.weight) == "plain"  # its gradient is wanted
    with torch.no_grad():
        assert kernel(x, layer.weight) == "convolution"
        assert kernel(x[:, :7], layer.weight) == "transposed"
        assert kernel(x, layer.weight[:128]) == "plain"
        with torch.autocast("cpu", torch.bfloat16):
            assert kernel(x, layer.weight) == "plain"
            assert layer(x).dtype == torch.bfloat16
        with torch.backends.mkldnn.flags(enabled=False):
            assert kernel(x, layer.weight) == "plain"
        torch.set_num_threads(1)
        assert kernel(x.reshape(1, -1, 256), layer.weight) == "plain"
        assert kernel(x[:, :7], layer.weight) == "plain"


def test_trained_weights_get_their_gradient() -> None:
    layer, x = Linear(256, 256), torch.randn(16, 9, 256)
    layer(x).sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is not None
    torch.testing.assert_close(layer.weight.grad, x.sum(dim=(0, 1)).expand(256, -1), rtol=1e-4, atol=1e-4)


def test_tokens_of_any_layout() -> None:
    x = torch.randn(99, 4, 600)[:, 1:, ::2].transpose(0, 1)  # strided, no dimension contiguous
    weight = torch.randn(256, 300)
    torch.testing.assert_close(linear(x, weight), torch.nn.functional.linear(x, weight), rtol=1e-4, atol=1e-4)
