"""What a safetensors file states of itself beside its tensors."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from promptsg_core.config import FieldValue
from promptsg_core.errors import CheckpointError
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.files.content import is_safetensors


def read_metadata(path: Path) -> dict[str, FieldValue]:
    """The ModelConfig fields that a safetensors file states of itself, as `promptsg train` writes them; else nothing.

    `promptsg.config` is ModelConfig.to_dict() as JSON. `promptsg.token_rows` are a trimmed embedding's token ids.
    Raises CheckpointError where they are damaged.
    """
    if not is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        stated = ModelConfig.fields_from(json.loads(metadata.get("promptsg.config", "{}")))
        if "promptsg.token_rows" in metadata:
            stated["token_rows"] = tuple(int(token) for token in json.loads(metadata["promptsg.token_rows"]))
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the file's own promptsg metadata is damaged: {error}") from error
    return stated
