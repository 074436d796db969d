"""Configurations from YAML files, options and `key=value` words, checked once and strictly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from jobs.errors import UserError
from jobs.phrases import did_you_mean, one_line
from jobs.text_files import read_text


class TypedConfig(BaseModel):
    """A frozen configuration. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=TypedConfig)


def gather(file: Path | None, options: Mapping[str, object], assignments: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a YAML file, of options that were given, and of `key=value` words. The later ones win.

    None and () mean that an option was not given. Raises UserError for a file or a word that cannot be read.
    """
    values = {} if file is None else read_yaml_mapping(file)
    values |= {key: value for key, value in options.items() if value is not None and value != ()}
    return values | dict(_assignment(text) for text in assignments)


def validate(kind: type[C], values: Mapping[str, Any], file: Path | None = None) -> C:
    """A configuration of these values. Raises UserError naming the key, the value, what is valid, and the file."""
    source = "" if file is None else f" (with the settings of {file})"
    for key in values:
        if key not in kind.model_fields:
            known = list(kind.model_fields)
            hint = did_you_mean(str(key), known) or "."
            raise UserError(f"unknown setting {key!r}{hint} Settings are {', '.join(known)}{source}")
    try:
        return kind(**values)
    except ValidationError as error:
        raise UserError("; ".join(_explain(problem) for problem in error.errors()) + source) from error


def read_yaml_mapping(file: Path) -> dict[Any, Any]:
    """The mapping in a YAML file, empty for an empty file. Raises UserError naming the file."""
    text = read_text(file)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also 2026-13-45, which looks like a date
        raise UserError(f"{file} is not YAML: {one_line(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a mapping of settings to values")
    return content


def _explain(problem: ErrorDetails) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if not key:  # a rule over several keys
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{key} is missing: give --{key.replace('_', '-')} or set it in the configuration file"
    return f"{key} is {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}"


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set takes key=value, got {text!r}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text!r}: the value is not YAML") from error
