"""The training code's own YAML (`MODEL.PROMPTSG.PROMPT_MODE`, ...) and its KEY VALUE overrides (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from promptsg_core.config import NECK_FEATS, PROMPT_MODES, REWEIGHT_MODES, FieldValue
from promptsg_core.errors import ModelError
from promptsg_core.phrases import did_you_mean

WEIGHT = "TEST.WEIGHT"  # the checkpoint's path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a settings file says: ModelConfig fields under `model`, and the checkpoint's path from TEST.WEIGHT."""

    model: Mapping[str, FieldValue] = field(default_factory=dict)
    weight: str | None = None


def _pair(value: object) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(type(v) is int and v > 0 for v in value):
        raise ValueError("a pair of positive integers such as [256, 128]")
    return value[0], value[1]


def _stride(value: object) -> int:
    if isinstance(value, int):
        return _count(value)
    down, across = _pair(value)
    if down != across:
        raise ValueError("the same stride down and across")
    return down


def _count(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("a positive integer")
    return value


def _triple(value: object) -> tuple[float, float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(type(v) in (int, float) for v in value):
        raise ValueError("three numbers, one per RGB channel")
    return float(value[0]), float(value[1]), float(value[2])


@dataclass(frozen=True)
class _OneOf:
    names: Sequence[str]

    def __call__(self, value: object) -> str:
        if value not in self.names:
            raise ValueError(f"one of {', '.join(self.names)}")
        return str(value)


@dataclass(frozen=True)
class Setting:
    """A key that decides a field of ModelConfig.

    `check` gives the field's value, or raises ValueError with what was expected.
    """

    field: str
    check: Callable[[object], FieldValue]


# The keys that are read. The training code has more, which concern training alone.
KEYS: Mapping[str, Setting] = {
    "MODEL.PROMPTSG.PROMPT_MODE": Setting("prompt_mode", _OneOf(PROMPT_MODES)),
    "MODEL.PROMPTSG.CROSS_ATTN_HEADS": Setting("mim_heads", _count),
    "MODEL.PROMPTSG.POST_CA_BLOCKS": Setting("mim_layers", _count),
    "MODEL.PROMPTSG.REWEIGHT": Setting("reweight", _OneOf(REWEIGHT_MODES)),
    "MODEL.STRIDE_SIZE": Setting("stride", _stride),
    "INPUT.SIZE_TEST": Setting("image_size", _pair),
    "INPUT.PIXEL_MEAN": Setting("mean", _triple),
    "INPUT.PIXEL_STD": Setting("std", _triple),
    "TEST.NECK_FEAT": Setting("neck_feat", _OneOf(NECK_FEATS)),
}
_KNOWN = (*KEYS, WEIGHT)


def read_settings(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a YAML file, then of `KEY VALUE KEY VALUE ...` words; the words win.

    Raises ModelError on a file that is no YAML mapping, a value of the wrong kind, and a key that looks misspelt. A key
    that only training reads is passed over in the file, and is an error among the words.
    """
    values = {} if path is None else _values_of_file(Path(path))
    values |= _values_of_words(overrides)
    weight = values.pop(WEIGHT, None)
    return Settings(
        model={KEYS[key].field: value for key, value in values.items()},
        weight=str(weight) if weight else None,
    )


def _values_of_file(path: Path) -> dict[str, FieldValue]:
    """key -> checked value of the known keys."""
    found = {}
    for key, value in _flatten(_read_yaml(path)):
        if key in _KNOWN:
            found[key] = _checked(key, value, str(path))
        elif hint := did_you_mean(key, _KNOWN, cutoff=0.9):
            raise ModelError(f"{path}: unknown key {key}{hint}")
    return found


def _values_of_words(words: Sequence[str]) -> dict[str, FieldValue]:
    """key -> checked value."""
    if len(words) % 2:
        raise ModelError(f"overrides are KEY VALUE pairs, but {words[-1]!r} has no value")
    found = {}
    for key, text in zip(words[::2], words[1::2], strict=True):
        if key not in _KNOWN:
            hint = did_you_mean(key, _KNOWN, cutoff=0.0)
            raise ModelError(f"unknown key {key}{hint} Known keys: {', '.join(_KNOWN)}")
        found[key] = _checked(key, text if key == WEIGHT else _parse(key, text), "the command line")
    return found


def _read_yaml(path: Path) -> Mapping[str, object]:
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


def _flatten(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _checked(key: str, value: object, where: str) -> FieldValue:
    """The value as the field takes it. Raises ModelError with key, value and what was expected."""
    if key == WEIGHT:
        return str(value) if value else None
    if isinstance(value, str) and value.startswith("("):  # the training code writes tuples as `(256, 128)`
        value = _parse(key, "[" + value.strip().removeprefix("(").removesuffix(")") + "]")
    try:
        return KEYS[key].check(value)
    except ValueError as error:
        raise ModelError(f"{where}: {key} is {value!r}, expected {error}") from error


def _parse(key: str, text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModelError(f"{key} {text!r} is not a value") from error
