"""A GPU that is not there: tensors with a device, a type and a shape, and no numbers.

Torch's fake tensors refuse what a GPU refuses: two tensors on different devices or of types that do not fit, and a
number that the host reads (DataDependentOutputException). What runs on the device and what is copied to it or from it
is counted. Not seen here: values, streams, memory, which kernels a GPU has and how long they take.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from promptsg_core.model import AnyModel

# Operators of these names ask about tensors or reserve memory: nothing runs on the device.
_LAUNCH_NOTHING = ("empty", "prim", "detach", "device", "sym_", "is_", "set_", "record_stream", "lift_fresh", "_pin",
                   "_unsafe_view", "_reshape_alias", "new_empty")  # fmt: skip
_ALIGNED = 8  # numbers: how the fused kernel wants the rows of a mask


@contextlib.contextmanager
def fake_gpu() -> Iterator[FakeTensorMode]:
    """All tensors made within are fake. Gradients are taken without autograd's engine, which needs a driver."""
    engine, attention = torch.autograd.grad, F.scaled_dot_product_attention
    own: Any = (_walked_gradients, _fused_attention)
    torch.autograd.grad, F.scaled_dot_product_attention = own
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode
    finally:
        torch.autograd.grad, F.scaled_dot_product_attention = engine, attention


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
                     is_causal: bool = False, scale: float | None = None) -> Tensor:  # fmt: skip
    """Torch's choice on a GPU, for which it asks the driver: one kernel, and what it does to a mask before.

    Without a mask in low precision it is flash attention, else the memory-efficient kernel. That takes a mask of
    numbers whose rows are aligned, and makes one of any other.
    """
    if attn_mask is None and q.dtype != torch.float32:
        found: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[
            0
        ]
        return found
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(attn_mask.logical_not(), -torch.inf)
        assert attn_mask.dtype == q.dtype, f"a mask of type {attn_mask.dtype} for queries of type {q.dtype}"
        if any(step % _ALIGNED for step in attn_mask.stride()[:-1]):
            columns = attn_mask.shape[-1]
            attn_mask = F.pad(attn_mask, (0, -columns % _ALIGNED))[..., :columns]
        attn_mask = attn_mask.expand(*q.shape[:2], q.shape[2], k.shape[2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    whole: Tensor = efficient(q, k, v, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale)[0]
    return whole


def move_to_fake_gpu(model: AnyModel, device: str = "cuda:0") -> AnyModel:
    """Puts every parameter and buffer of a model on a device that is not there. To be called within `fake_gpu`."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_like(parameter, device), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _like(buffer, device)
    return model


def _like(tensor: Tensor, device: str) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


@dataclass(frozen=True)
class Copy:
    """One copy between the host and a device: the devices, and the tensor's shape."""

    source: str
    target: str
    shape: tuple[int, ...]


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, within `fake_gpu`, the operators that run on the device by name, and the copies to and from it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launched: Counter[str] = Counter()
        self.copies: list[Copy] = []

    @property
    def kernels(self) -> int:
        """How many operators ran on the device. A GPU may need several kernels for one of them, mostly it needs one."""
        return self.launched.total()

    @property
    def up(self) -> list[Copy]:
        """The copies from the host to the device."""
        return [one for one in self.copies if one.source == "cpu"]

    @property
    def down(self) -> list[Copy]:
        """The copies from the device to the host."""
        return [one for one in self.copies if one.target == "cpu"]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator and counts it."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        first = next((one for one in _flat(result) if isinstance(one, Tensor)), None)
        if name in ("_to_copy", "copy_"):
            source = args[0] if name == "_to_copy" else args[1]
            if first is not None and source.device.type != first.device.type:
                self.copies.append(Copy(str(source.device), str(first.device), tuple(source.shape)))
        on_device = first is not None and first.device.type == "cuda"
        if on_device and not func.is_view and not name.startswith(_LAUNCH_NOTHING):
            self.launched[name] += 1
        return result


def _flat(result: Any) -> Sequence[Any]:
    return result if isinstance(result, (tuple, list)) else (result,)


def _walked_gradients(
    output: Tensor, inputs: Sequence[Tensor], grad_outputs: Tensor | None = None
) -> tuple[Tensor, ...]:
    """What torch.autograd.grad gives, by calling the nodes of the graph one after another, each after all that feed it.

    A gradient must have the device and the type of the tensor that it is of. The engine would convert the type, at the
    cost of a kernel, and it would hide a slip.
    """
    ends = [torch.autograd.graph.get_gradient_edge(tensor) for tensor in inputs]
    start = torch.autograd.graph.get_gradient_edge(output)
    waiting_for = _feeders(start.node)
    given: dict[Any, dict[int, Tensor]] = {
        start.node: {start.output_nr: torch.ones_like(output) if grad_outputs is None else grad_outputs}
    }
    found: dict[int, Tensor] = {}
    ready = [start.node]
    while ready:
        node = ready.pop()
        own = given.pop(node, {})
        found |= {at: own[end.output_nr] for at, end in enumerate(ends) if end.node == node and end.output_nr in own}
        onwards = [] if not own or node.name().endswith("AccumulateGrad") else _flat(_call(node, own))
        for (target, number), gradient in zip(node.next_functions, onwards or [None] * len(node.next_functions),
                                              strict=True):  # fmt: skip
            if target is None:
                continue
            if gradient is not None:
                _add(given.setdefault(target, {}), number, _fitting(gradient, target._input_metadata[number], node))
            waiting_for[target] -= 1
            if not waiting_for[target]:
                ready.append(target)
    return tuple(found[at] for at in range(len(ends)))


def _feeders(start: Any) -> Counter[Any]:
    """Node -> how many edges lead to it from nodes that `start` reaches."""
    edges: Counter[Any] = Counter()
    seen, todo = {start}, [start]
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is not None:
                edges[node] += 1
                if node not in seen:
                    seen.add(node)
                    todo.append(node)
    return edges


def _call(node: Any, given: dict[int, Tensor]) -> Any:
    with torch.no_grad():
        run = node if callable(node) else node.apply  # the second of a torch.autograd.Function
        return run(*(given.get(number) for number in range(len(node._input_metadata))))


def _fitting(gradient: Tensor, of: Any, node: Any) -> Tensor:
    """The gradient in the shape of the tensor that it is of. Raises AssertionError for another device or type."""
    for what, here, there in (("on", gradient.device, of.device), ("of type", gradient.dtype, of.dtype)):
        assert here == there, f"{node.name()}: a gradient {what} {here} of a tensor {what} {there}"
    return gradient if gradient.shape == of.shape else gradient.sum_to_size(of.shape)


def _add(slots: dict[int, Tensor], number: int, gradient: Tensor) -> None:
    slots[number] = slots[number] + gradient if number in slots else gradient
