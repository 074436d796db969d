"""The training code's own YAML (`MODEL.PROMPTSG.PROMPT_MODE`, ...) and its KEY VALUE overrides (no torch)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import yaml

from promptsg_core.choices import NECK_FEATS, PROMPT_MODES, REWEIGHT_MODES
from promptsg_core.config import FieldValue
from promptsg_core.errors import ModelError
from promptsg_core.phrases import did_you_mean

WEIGHT = "TEST.WEIGHT"  # the checkpoint's path
_DEEPEST = 16  # levels of a settings file; the training code has three
_PROMPTSG = "MODEL.PROMPTSG."
# Modes of the training code that change the map, and the only value of each that is computed here.
MAP_MODES: Mapping[str, str | bool] = {
    f"{_PROMPTSG}COATTN_TEXT_MODE": "eot",
    f"{_PROMPTSG}ATTN_POOL_MODE": "mean",
    f"{_PROMPTSG}INCLUDE_CLS_IN_KV": False,
    f"{_PROMPTSG}KV_MODE": "patch",
    f"{_PROMPTSG}ENABLE_IADT": False,
    f"{_PROMPTSG}POST_SEQ_MODE": "image",
    f"{_PROMPTSG}REWEIGHT_CLS": False,
}
# How several text tokens become one map: with the one of "eot" every value of it means the same.
_WITHOUT_EFFECT = (f"{_PROMPTSG}ATTN_MAP_MODE",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a settings file says: fields of a configuration under `model`, and the checkpoint's path from TEST.WEIGHT.

    `words` are those of the fields that KEY VALUE words stated, which concern this checkpoint for sure. `stated_modes`
    are the keys of MAP_MODES that it states, each with the value that is computed.
    """

    model: Mapping[str, FieldValue] = field(default_factory=dict)
    words: Mapping[str, FieldValue] = field(default_factory=dict)
    weight: str | None = None
    stated_modes: frozenset[str] = frozenset()


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


def _switch(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError("true or false")
    return value


def _number(value: object) -> float:
    if type(value) not in (int, float):
        raise ValueError("a number")
    return float(cast(float, value))


def _word(value: object) -> str:
    return str(value)  # the family knows which there are


@dataclass(frozen=True)
class _OneOf:
    names: Sequence[str]

    def __call__(self, value: object) -> str:
        if value not in self.names:
            raise ValueError(f"one of {', '.join(self.names)}")
        return str(value)


@dataclass(frozen=True)
class Setting:
    """A key that decides a field of a family's configuration.

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
    "MODEL.SIE_CAMERA": Setting("sie_camera", _switch),
    "MODEL.SIE_VIEW": Setting("sie_view", _switch),
    "MODEL.SIE_COE": Setting("sie_coe", _number),
    "MODEL.TRANSFORMER_TYPE": Setting("transformer_type", _word),
    "MODEL.ID_LOSS_TYPE": Setting("id_loss_type", _word),
    "MODEL.JPM": Setting("jpm", _switch),
    "MODEL.SHIFT_NUM": Setting("shift_num", _count),
    "MODEL.SHUFFLE_GROUP": Setting("shuffle_group", _count),
    "MODEL.DEVIDE_LENGTH": Setting("devide_length", _count),
    "MODEL.RE_ARRANGE": Setting("re_arrange", _switch),
    "MODEL.STRIDE_SIZE": Setting("stride", _stride),
    "INPUT.SIZE_TEST": Setting("image_size", _pair),
    "INPUT.PIXEL_MEAN": Setting("mean", _triple),
    "INPUT.PIXEL_STD": Setting("std", _triple),
    "TEST.NECK_FEAT": Setting("neck_feat", _OneOf(NECK_FEATS)),
    "SOLVER.COSINE_SCALE": Setting("cosine_scale", _number),
}
# Other names of the same setting: the first is the author's.
_ALIASES: Mapping[str, str] = {f"{_PROMPTSG}REWEIGHT_MODE": f"{_PROMPTSG}REWEIGHT"}
_KNOWN = (*KEYS, *_ALIASES, WEIGHT)


def read_settings(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Settings of a YAML file, then of `KEY VALUE KEY VALUE ...` words; the words win.

    Raises ModelError on a file that is no YAML mapping, a value of the wrong kind, a mode whose map is not computed,
    and a key that looks misspelt. A key that only training reads is passed over in the file, and is an error among the
    words.
    """
    words = _values_of_words(overrides)
    values = {**({} if path is None else _values_of_file(Path(path))), **words}
    weight = values.pop(WEIGHT, None)
    return Settings(
        model={KEYS[key].field: value for key, value in values.items() if key in KEYS},
        words={KEYS[key].field: value for key, value in words.items() if key in KEYS},
        weight=str(weight) if weight else None,
        stated_modes=frozenset(key for key in values if key in MAP_MODES),
    )


def _values_of_file(path: Path) -> dict[str, FieldValue]:
    """key -> checked value of the known keys."""
    pairs = []
    for key, value in _flatten(_read_yaml(path), str(path)):
        if key in _KNOWN or key in MAP_MODES:
            pairs.append((key, value))
        elif hint := _misspelt(key):
            raise ModelError(f"{path}: unknown key {key}{hint}")
    return _checked_pairs(pairs, str(path))


def _values_of_words(words: Sequence[str]) -> dict[str, FieldValue]:
    """key -> checked value."""
    if len(words) % 2:
        raise ModelError(f"overrides are KEY VALUE pairs, but {words[-1]!r} has no value")
    pairs = []
    for key, text in zip(words[::2], words[1::2], strict=True):
        if key in _WITHOUT_EFFECT:
            continue
        if key not in _KNOWN and key not in MAP_MODES:
            known = (*_KNOWN, *MAP_MODES)
            raise ModelError(f"unknown key {key}{did_you_mean(key, known, cutoff=0.0)} Known keys: {', '.join(known)}")
        pairs.append((key, text if key == WEIGHT else _parse(key, text)))
    return _checked_pairs(pairs, "the command line")


def _misspelt(key: str) -> str:
    """The hint for a key that looks like a known one, else nothing. Keys of modes differ in their last part only."""
    if key in _WITHOUT_EFFECT:
        return ""
    parent, _, last = key.rpartition(".")
    if f"{parent}." == _PROMPTSG:
        names = [known.removeprefix(_PROMPTSG) for known in (*_KNOWN, *MAP_MODES) if known.startswith(_PROMPTSG)]
        return did_you_mean(last, names, cutoff=0.9).replace("did you mean ", f"did you mean {_PROMPTSG}")
    return did_you_mean(key, _KNOWN, cutoff=0.9)


def _checked_pairs(pairs: Iterable[tuple[str, object]], where: str) -> dict[str, FieldValue]:
    """Checked values by key, under one name for each setting.

    Raises ModelError where two names of one setting have different values.
    """
    found: dict[str, FieldValue] = {}
    named: dict[str, str] = {}
    for key, value in pairs:
        one = _ALIASES.get(key, key)
        checked = _checked(one, value, where, key)
        if named.get(one, key) != key and found[one] != checked:
            raise ModelError(
                f"{where}: {named[one]} is {found[one]!r} and {key} is {checked!r}, but they are one setting"
            )
        found[one], named[one] = checked, key
    return found


def _read_yaml(path: Path) -> Mapping[object, object]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also text of another encoding, 2026-13-45
        raise ModelError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: not a mapping of settings")
    return content


def _flatten(tree: Mapping[object, object], where: str, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values below dotted keys, whatever a key is: `1:` is "1". An alias of a mapping in itself ends the walk."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and prefix.count(".") >= _DEEPEST:
            raise ModelError(f"{where}: settings lie deeper than {_DEEPEST} levels below {prefix.partition('.')[0]}")
        if isinstance(value, Mapping):
            yield from _flatten(value, where, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _checked(key: str, value: object, where: str, name: str) -> FieldValue:
    """The value as the field takes it. Raises ModelError with the key's `name`, value and what was expected."""
    if key == WEIGHT:
        return str(value) if value else None
    if key in MAP_MODES:
        if type(value) is type(MAP_MODES[key]) and value == MAP_MODES[key]:
            return MAP_MODES[key]
        computed = str(MAP_MODES[key]).lower()
        raise ModelError(f"{where}: {name} is {value!r}, but only {computed} is computed: the maps would be others")
    if isinstance(value, str) and value.startswith("("):  # the training code writes tuples as `(256, 128)`
        value = _parse(key, "[" + value.strip().removeprefix("(").removesuffix(")") + "]")
    try:
        return KEYS[key].check(value)
    except ValueError as error:
        raise ModelError(f"{where}: {name} is {value!r}, expected {error}") from error


def _parse(key: str, text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModelError(f"{key} {text!r} is not a value") from error
