"""The training code's own YAML (`MODEL.PROMPTSG.PROMPT_MODE`, ...) and its KEY VALUE overrides (no torch)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from promptsg_core.config import NECK_FEATS, PROMPT_MODES, REWEIGHT_MODES
from promptsg_core.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a settings file says: ModelConfig fields under `model`, and the checkpoint's path from TEST.WEIGHT."""

    model: dict[str, Any] = field(default_factory=dict)
    weight: str | None = None


def _pair(value: Any) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(type(v) is int and v > 0 for v in value):
        raise ValueError("a pair of positive integers such as [256, 128]")
    return value[0], value[1]


def _stride(value: Any) -> int:
    if type(value) is int and value > 0:
        return value
    down, across = _pair(value)
    if down != across:
        raise ValueError("the same stride down and across")
    return down


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("a positive integer")
    return value


def _triple(value: Any) -> tuple[float, float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(type(v) in (int, float) for v in value):
        raise ValueError("three numbers, one per RGB channel")
    return float(value[0]), float(value[1]), float(value[2])


def _one_of(*names: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return str(value)

    return check


# Key of the ecosystem -> (ModelConfig field, check). Its other keys concern training and are left alone.
KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "MODEL.PROMPTSG.PROMPT_MODE": ("prompt_mode", _one_of(*PROMPT_MODES)),
    "MODEL.PROMPTSG.CROSS_ATTN_HEADS": ("mim_heads", _count),
    "MODEL.PROMPTSG.POST_CA_BLOCKS": ("mim_layers", _count),
    "MODEL.PROMPTSG.REWEIGHT": ("reweight", _one_of(*REWEIGHT_MODES)),
    "MODEL.STRIDE_SIZE": ("stride", _stride),
    "INPUT.SIZE_TEST": ("image_size", _pair),
    "INPUT.PIXEL_MEAN": ("mean", _triple),
    "INPUT.PIXEL_STD": ("std", _triple),
    "TEST.NECK_FEAT": ("neck_feat", _one_of(*NECK_FEATS)),
}
WEIGHT = "TEST.WEIGHT"


def read_settings(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a YAML file, then of `KEY VALUE KEY VALUE ...` words, which win.

    Raises ModelError on a file that is no YAML mapping, a value of the wrong kind, and a key that looks misspelt; in
    the file, keys that only training reads pass, on the command line they are errors.
    """
    found: dict[str, Any] = {}
    if path is not None:
        for key, value in _flatten(_read_yaml(Path(path))):
            if key in KEYS or key == WEIGHT:
                found[key] = _checked(key, value, str(path))
            elif near := _misspelt(key):
                raise ModelError(f"{path}: unknown key {key}; did you mean {near}?")
    if len(overrides) % 2:
        raise ModelError(f"overrides are KEY VALUE pairs, but {overrides[-1]!r} has no value")
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        if key not in KEYS and key != WEIGHT:
            near = _misspelt(key, 0.0)
            raise ModelError(f"unknown key {key}; did you mean {near}? Known keys: {', '.join([*KEYS, WEIGHT])}")
        found[key] = _checked(key, text if key == WEIGHT else _parse(key, text), "the command line")
    weight = found.pop(WEIGHT, None)
    return Settings(model={KEYS[key][0]: value for key, value in found.items()}, weight=weight or None)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: not a mapping of settings")
    return content


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _parse(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModelError(f"{key} {text!r} is not a value") from error
    return _tuple_of(text) if isinstance(value, str) and text.startswith("(") else value


def _tuple_of(text: str) -> Any:
    """`(256, 128)`, as the ecosystem writes tuples."""
    return yaml.safe_load("[" + text.strip().removeprefix("(").removesuffix(")") + "]")


def _checked(key: str, value: Any, where: str) -> Any:
    if isinstance(value, str) and value.startswith("(") and key != WEIGHT:
        value = _tuple_of(value)
    if key == WEIGHT:
        return str(value) if value else None
    try:
        return KEYS[key][1](value)
    except ValueError as error:
        raise ModelError(f"{where}: {key} is {value!r}, expected {error}") from error


def _misspelt(key: str, cutoff: float = 0.9) -> str | None:
    near = difflib.get_close_matches(key, [*KEYS, WEIGHT], n=1, cutoff=cutoff)
    return near[0] if near else None
