"""What is kept of parameters is never older than they are."""

from __future__ import annotations

import copy

import torch
from torch import nn

from promptsg_core.towers.kept import Kept
from promptsg_core.towers.transformer import ClipMlp


def test_it_is_computed_once_until_a_parameter_is_edited_or_replaced() -> None:
    layer, kept = nn.Linear(2, 2).requires_grad_(False), Kept[float]()
    calls: list[float] = []

    def compute() -> float:
        calls.append(float(layer.weight.sum()))
        return calls[-1]

    def of() -> float:
        return kept.of([layer.weight], compute)

    first = of()
    assert (of(), len(calls)) == (first, 1)
    layer.weight.add_(1)
    assert (of(), len(calls)) == (float(layer.weight.sum()), 2)
    layer.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, assign=True)
    assert (of(), len(calls)) == (4.0, 3)
    layer.half().float()  # the same numbers, perhaps at the same place as before
    assert (of(), len(calls)) == (4.0, 4)
    assert kept.of([layer.weight.requires_grad_(True)], lambda: -1.0) == -1.0  # with a gradient it is always computed


def test_an_mlp_follows_its_parameters_and_stores_nothing() -> None:
    torch.manual_seed(0)
    mlp, norm, x = ClipMlp(6), nn.LayerNorm(6), torch.randn(2, 3, 6)
    with torch.no_grad():
        for change in (lambda: None, lambda: norm.weight.mul_(2), lambda: mlp.c_fc.bias.add_(1),
                       lambda: mlp.c_proj.bias.sub_(1), lambda: nn.init.normal_(norm.bias)):  # fmt: skip
            change()
            inner = mlp.c_fc(norm(x))
            wanted = x + mlp.c_proj(inner * torch.sigmoid(1.702 * inner))
            torch.testing.assert_close(mlp(x, norm), wanted)
            torch.testing.assert_close(copy.deepcopy(mlp)(x, copy.deepcopy(norm)), wanted)
    assert set(mlp.state_dict()) == {f"{layer}.{kind}" for layer in ("c_fc", "c_proj") for kind in ("weight", "bias")}
    mlp(x, norm).sum().backward()  # after it was kept: in training there is a gradient all the same
    assert norm.weight.grad is not None and mlp.c_fc.bias.grad is not None
