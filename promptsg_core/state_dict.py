"""A checkpoint file as named tensors, read without running code."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from promptsg_core.config import FieldValue, ModelConfig
from promptsg_core.errors import CheckpointError
from promptsg_core.families.recognise import strip_parallel_prefix
from promptsg_core.phrases import first_few

_WRAPPERS = ("state_dict", "model")  # keys under which training codes store the state dict, beside other things
# What torch raises for a truncated or foreign file.
_DAMAGE = (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, UnicodeDecodeError, struct.error,
           AssertionError, TypeError, OverflowError)  # fmt: skip
# (offset, or -1 for anywhere near the start; lower-case bytes there; what such a file is)
_NO_CHECKPOINTS = (
    (-1, b"<html", "an HTML page; was a login or error page downloaded in its place?"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89png", "a PNG image"),
    (0, b"\x89hdf", "an HDF5 file"),
    (257, b"ustar", "a tar, such as a shard of images"),
)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth or safetensors file, without the prefix `module.` and outer keys such as `state_dict`.

    Only tensors are unpickled: a file with code in it is refused, not run. Raises CheckpointError naming the file.
    """
    if not path.is_file():
        what = "is a folder, not a checkpoint file" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not a state dict of named tensors")
    strange = [str(k) for k, v in content.items() if not isinstance(v, Tensor) or not isinstance(k, str)]
    if strange:
        raise CheckpointError(f"{path}: not a state dict: {first_few(strange)} are not tensors")
    return strip_parallel_prefix(content)


def read_metadata(path: Path) -> dict[str, FieldValue]:
    """The ModelConfig fields that a safetensors file states of itself, as `promptsg train` writes them; else nothing.

    `promptsg.config` is ModelConfig.to_dict() as JSON. `promptsg.token_rows` are a trimmed embedding's token ids.
    Raises CheckpointError where they are damaged.
    """
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    try:
        stated = ModelConfig.fields_from(json.loads(metadata.get("promptsg.config", "{}")))
        if "promptsg.token_rows" in metadata:
            stated["token_rows"] = tuple(int(token) for token in json.loads(metadata["promptsg.token_rows"]))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the file's own promptsg metadata is damaged: {error}") from error
    return stated


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _read_pickle(path: Path) -> object:
    with path.open("rb") as file:
        start = file.read(1024)
    for offset, sign, what in _NO_CHECKPOINTS:
        seen = start.lower() if offset < 0 else start[offset : offset + len(sign)].lower()
        if sign in seen:
            raise CheckpointError(f"{path}: not loaded: it is {what}")
    is_zip = start.startswith(b"PK\x03\x04")  # torch's newer format, which can be memory-mapped
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            reason = "it holds more than tensors, and code in a checkpoint is never run; save only the state dict"
        raise CheckpointError(f"{path}: not loaded: {reason}") from error
    except _DAMAGE as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: truncated, damaged or not a PyTorch checkpoint ({reason})") from error
