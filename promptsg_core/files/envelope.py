"""The state dict in a checkpoint file, taken out of what trainers wrap around it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptsg_core.errors import CheckpointError
from promptsg_core.files.content import memory_of_machine, read_content
from promptsg_core.phrases import first_few, printable

# What trainers call the entry with the weights, the most telling name first.
_WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights", "module",
    "teacher",
)  # fmt: skip
# Averaged weights that trainers keep beside the plain ones.
_AVERAGED = re.compile(r"(^|_)(ema|swa|shadow|averaged)($|_)")
# What torch's own wrappers of modules put into names, at any depth.
_MARKS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, beside `module.`
# First components of the names in the state dicts of known families, which are never a wrapper's prefix.
_OWN_ROOTS = frozenset(
    {"image_encoder", "text_encoder", "prompt_composer", "prompt_learner", "inversion", "mim", "interaction",
     "cross_guidance", "bottleneck", "bottleneck_proj", "classifier", "classifier_proj", "base", "base_model",
     "backbone", "heads", "visual", "text", "transformer", "token_embedding", "vision_model", "text_model"}
)  # fmt: skip
_PREFIX = re.compile(r"[A-Za-z_]\w*")
_DEEPEST = 8  # wrappers in each other
_PLAIN_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SMALL = 2**20  # bytes; so much a tensor may show of a smaller storage


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The tensors of a checkpoint file by name.

    `taken` is the path of keys that they lay below, "" at the top. `others` are the paths of further state dicts in
    the file, such as an average of the weights, that could have been taken instead.
    """

    tensors: dict[str, Tensor]
    taken: str = ""
    others: tuple[str, ...] = ()


def read_weights(path: Path, weights_key: str | None = None) -> Weights:
    """The state dict in a .pth or safetensors file. `weights_key` is the path of keys to take (`state_dict_ema`).

    Wrappers and a prefix that all names share are taken off. Only tensors, plain values and numpy's numbers are
    unpickled: a file with code in it is refused, and no code runs. Raises CheckpointError, one line naming the file.
    """
    try:
        content = read_content(path)
        found = _chosen(content, weights_key) if weights_key else _unwrapped(content)
        tensors = _tensors(found.content, found.path)
    except CheckpointError as error:
        # `x.pth does not exist` and `x.pth: not loaded: ...`
        separator = " " if str(error).startswith(("does ", "is a ", "cannot be ")) else ": "
        raise CheckpointError(f"{printable(str(path))}{separator}{printable(str(error))}") from error
    return Weights(tensors=strip_prefixes(tensors), taken=found.path, others=found.others)


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Takes off what DataParallel (`module.`), torch.compile (`_orig_mod.`) and trainers put before the names.

    `module.` is taken off also where only some names have it, unless two names would become one.
    """
    names = {key: re.sub(r"^(?:module\.)+", "", _MARKS.sub("", key)) for key in state}
    if len(set(names.values())) < len(names):
        names = {key: key for key in state}
    if _COUNTER in names and any(key.startswith("module.") for key in state):
        del names[_COUNTER]
    while len(names) > 1:
        roots = {name.partition(".")[0] for name in names.values()}
        root = roots.pop()
        if roots or root in _OWN_ROOTS or not _PREFIX.fullmatch(root):
            break
        shorter = {key: name.partition(".")[2] for key, name in names.items()}
        if not all(shorter.values()):
            break
        names = shorter
    return {name: state[key] for key, name in names.items()}


@dataclass(frozen=True)
class _Found:
    """A state dict inside a file's content, the path of keys that leads there, and the paths of others."""

    content: Mapping[str, Any]
    path: str
    others: tuple[str, ...] = ()


def _unwrapped(content: object) -> _Found:
    """The state dict that the usual names lead to, or the only one that there is."""
    others: list[str] = []
    path: list[str] = []
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = [key for key, value in content.items() if _is_wrapped(key, value)]
        name = _usual(content, inner)
        if name is None:
            break
        others += [".".join([*path, key]) for key in inner if key != name]
        path.append(name)
        content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"holds {type(content).__name__}, not a state dict of named tensors")
    averages = _flat_averages(content)
    kept = {key: value for key, value in content.items() if _root(key) not in averages}
    return _Found(kept, ".".join(path), (*others, *(".".join([*path, name]) for name in averages)))


def _usual(content: Mapping[Any, Any], inner: list[str]) -> str | None:
    """Which of the mappings with tensors to take; None where the content is the state dict itself."""
    plain = [name for name in inner if not _AVERAGED.search(name)]
    usual = [name for name in _WRAPPERS if name in plain]
    if usual:
        return usual[0]
    if not inner or any(isinstance(value, Tensor) for value in content.values()):
        return None
    candidates = plain or inner  # an average may be all that the file has
    if len(candidates) > 1:
        raise CheckpointError(f"several state dicts in it, {first_few(candidates)}: choose one by --weights-key")
    return candidates[0]


def _chosen(content: object, weights_key: str) -> _Found:
    """The state dict at a path of keys that the user gave, and through wrappers below it."""
    inside: Any = content
    for part in weights_key.split("."):
        if isinstance(inside, Mapping) and part in inside:
            inside = inside[part]
        elif isinstance(inside, Mapping) and any(_root(key) == part for key in inside):  # a prefix of flat names
            inside = {key.partition(".")[2]: value for key, value in inside.items() if _root(key) == part}
        else:
            raise CheckpointError(f"there is no {weights_key!r} in it; it holds {_contents(content)}")
    found = _unwrapped(inside)
    return _Found(found.content, f"{weights_key}.{found.path}" if found.path else weights_key)


def _flat_averages(content: Mapping[Any, Any]) -> list[str]:
    """The first components of averaged weights that lie beside plain ones under flat names: `model_ema.x, model.x`."""
    roots = {_root(key) for key, value in content.items() if isinstance(value, Tensor)} - {None}
    averages = sorted(root for root in roots if root and _AVERAGED.search(root))
    return averages if len(averages) < len(roots) else []


def _root(key: object) -> str | None:
    return key.partition(".")[0] if isinstance(key, str) and "." in key else None


def _is_wrapped(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Mapping) and _has_tensors(value)


def _has_tensors(value: Mapping[Any, Any], depth: int = 3) -> bool:
    """Whether a mapping is a state dict, or holds one within a few levels. An optimizer's state is none."""
    if any(isinstance(item, Tensor) and isinstance(key, str) for key, item in value.items()):
        return True
    nested = [item for key, item in value.items() if isinstance(item, Mapping) and isinstance(key, str)]
    return depth > 0 and any(_has_tensors(item, depth - 1) for item in nested)


def _tensors(content: Mapping[str, Any], path: str) -> dict[str, Tensor]:
    """The content as named tensors with plain numbers that fit the memory. Raises CheckpointError naming the key."""
    strange = {
        str(key): value for key, value in content.items() if not isinstance(value, Tensor) or not isinstance(key, str)
    }
    if strange:
        where = f" below {path!r}" if path else ""
        raise CheckpointError(f"not a state dict{where}: {first_few(list(strange))} are not tensors ({_is(strange)})")
    for key, tensor in content.items():
        if problem := _unusable(tensor):
            raise CheckpointError(f"the tensor {key} {problem}")
    needed, memory = sum(tensor.nbytes for tensor in content.values()), memory_of_machine()
    if memory is not None and needed > memory:
        raise CheckpointError(f"its tensors take {needed / 2**30:.0f} GiB, the machine has {memory / 2**30:.0f}")
    return dict(content)


def _unusable(tensor: Tensor) -> str | None:
    """Why a tensor cannot be computed with, or None."""
    if tensor.is_meta:
        return "is on the meta device, without values; save the weights themselves"
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "is sparse or nested; save it as a plain tensor (tensor.to_dense())"
    if tensor.is_quantized or tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in _PLAIN_FLOATS):
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"is {kind}; save it as float32, float16 or bfloat16"
    if tensor.nbytes > max(tensor.untyped_storage().nbytes(), _SMALL):
        return f"has shape {tuple(tensor.shape)}, but the file has only {tensor.untyped_storage().nbytes()} bytes of it"
    return None


def _contents(content: object) -> str:
    """What a mapping holds, for an error: `state (dict of 3), epoch (int)`."""
    if not isinstance(content, Mapping):
        return type(content).__name__
    return first_few([f"{key} ({_kind(value)})" for key, value in content.items()]) or "nothing"


def _is(content: Mapping[str, Any]) -> str:
    return first_few([f"{key} is {_kind(value)}" for key, value in content.items()])


def _kind(value: object) -> str:
    return f"a dict of {len(value)}" if isinstance(value, Mapping) else type(value).__name__
