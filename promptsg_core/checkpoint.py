"""Checkpoints: read without running code, recognised by their keys, loaded strictly or not at all."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from promptsg_core.config import ModelConfig
from promptsg_core.errors import CheckpointError
from promptsg_core.families import family_of, strip_parallel_prefix, to_family_h
from promptsg_core.infer import infer_config
from promptsg_core.model import PromptSG
from promptsg_core.precision import PRECISIONS, resolve_device, resolve_precision
from promptsg_core.settings import Settings, read_settings

_DAMAGE = (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, UnicodeDecodeError, struct.error,
           AssertionError, TypeError, OverflowError)  # fmt: skip
_MANY = 8  # keys named in an error before the rest is counted


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint holds; `parameters` counts the weights that the model uses."""

    path: Path
    family: str
    config: ModelConfig
    parameters: int
    dtype: str


def load_model(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    settings: Settings | str | Path | None = None,
    **given: Any,
) -> PromptSG:
    """A frozen PromptSG in eval mode from a checkpoint of family H or E; needs no GPU, download or class count.

    `settings` (or the path of a YAML file in the ecosystem's own keys) and `given` (ModelConfig fields, such as
    prompt_mode= or neck_feat=) state what shapes cannot tell. Raises CheckpointError or ModelError, naming the file.
    """
    path = Path(path)
    target = resolve_device(device)
    dtype = PRECISIONS[resolve_precision(precision, target)]
    _, config, state = _understand(path, settings, given)
    with torch.device("meta"):
        model = PromptSG(config)
    _fill(model, state, path)
    model.requires_grad_(False).eval()
    return model.float().convert(dtype).to(target)


def inspect_checkpoint(
    path: str | Path, *, settings: Settings | str | Path | None = None, **given: Any
) -> CheckpointInfo:
    """Family, configuration and size of a checkpoint, after the same checks as `load_model`; see there for errors."""
    path = Path(path)
    family, config, state = _understand(path, settings, given)
    with torch.device("meta"):
        model = PromptSG(config)
    _fill(model, state, path)
    weights = list(model.parameters())
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in state.values() if t.is_floating_point()})
    return CheckpointInfo(
        path=path, family=family, config=config, parameters=sum(p.numel() for p in weights), dtype=", ".join(dtypes)
    )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth or safetensors file, `module.` dropped, the dict below `state_dict` or `model` unwrapped.

    Only tensors are unpickled: a file with code in it is refused, not run. Raises CheckpointError naming the file.
    """
    if not path.is_file():
        what = "is a folder, not a checkpoint file" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not a state dict of named tensors")
    strange = [str(k) for k, v in content.items() if not isinstance(v, Tensor) or not isinstance(k, str)]
    if strange:
        raise CheckpointError(f"{path}: not a state dict: {_some(strange)} are not tensors")
    return strip_parallel_prefix(content)


def read_metadata(path: Path) -> dict[str, Any]:
    """The ModelConfig fields that a safetensors file states of itself, as `promptsg train` writes them; else nothing.

    `promptsg.config` is ModelConfig.to_dict() as JSON; `promptsg.token_rows` a trimmed embedding's token ids.
    Raises CheckpointError when they are not what they should be.
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


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


# (offset, or -1 for anywhere near the start; lower-case bytes there; what such a file is)
_NO_CHECKPOINTS = (
    (-1, b"<html", "an HTML page; was a login or error page downloaded in its place?"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89png", "a PNG image"),
    (0, b"\x89hdf", "an HDF5 file"),
    (257, b"ustar", "a tar, such as a shard of images"),
)


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(1024)
    for at, sign, what in _NO_CHECKPOINTS:
        if sign in start.lower() if at < 0 else start[at : at + len(sign)].lower() == sign:
            raise CheckpointError(f"{path}: not loaded: it is {what}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            reason = "it holds more than tensors, and code in a checkpoint is never run; save only the state dict"
        raise CheckpointError(f"{path}: not loaded: {reason}") from error
    except _DAMAGE as error:
        # torch reports a truncated or foreign file in any of these ways.
        reason = str(error).split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: truncated, damaged or not a PyTorch checkpoint ({reason})") from error


def _is_zip(path: Path) -> bool:
    """Whether this is torch's zip format, which can be memory-mapped; the older one cannot."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _understand(
    path: Path, settings: Settings | str | Path | None, given: Mapping[str, Any]
) -> tuple[str, ModelConfig, dict[str, Tensor]]:
    """(family, configuration, tensors under family H's names); errors name the file."""
    if not isinstance(settings, Settings):
        settings = read_settings(settings)
    state = read_state_dict(path)
    try:
        family = family_of(state)
        state = to_family_h(state, family)
        stated = {**settings.model, **{k: v for k, v in given.items() if v is not None}}
        config = infer_config(state, {**read_metadata(path), **stated})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return family, config, state


def _fill(model: PromptSG, state: Mapping[str, Tensor], path: Path) -> None:
    """Puts every tensor in its place: no key too many, none missing, no other shape, nothing that is not finite."""
    wanted = model.state_dict()
    # Older files lack this counter, which evaluation never reads.
    counters = {key: torch.zeros((), dtype=torch.long) for key in wanted if key.endswith("num_batches_tracked")}
    state = {**counters, **state}
    problems = []
    if missing := sorted(wanted.keys() - state.keys()):
        problems.append(f"missing {_some(missing)}")
    if unexpected := sorted(state.keys() - wanted.keys()):
        problems.append(f"unexpected {_some(unexpected)}")
    wrong = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if wrong:
        problems.append(f"wrong shapes: {_some(wrong)}")
    if problems:
        raise CheckpointError(f"{path}: does not fit the model: {'; '.join(problems)}")
    if bad := [key for key, tensor in state.items() if not bool(torch.isfinite(tensor).all())]:
        raise CheckpointError(f"{path}: NaN or infinite values in {_some(bad)}")
    model.load_state_dict(state, strict=True, assign=True)


def _some(names: list[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(names[:_MANY]) + more
