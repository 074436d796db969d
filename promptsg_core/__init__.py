"""PromptSG for inference: CLIP towers, the Multimodal Interaction Module, checkpoints and preprocessing.

Names are imported on first use, so that `import promptsg_core` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from promptsg_core.checkpoint import CheckpointInfo, inspect_checkpoint, load_model
    from promptsg_core.config import ModelConfig
    from promptsg_core.errors import CheckpointError, ImageError, ModelError
    from promptsg_core.model import PromptSG

_HOMES = {
    "CheckpointError": "errors",
    "CheckpointInfo": "checkpoint",
    "ImageError": "errors",
    "ModelConfig": "config",
    "ModelError": "errors",
    "PromptSG": "model",
    "inspect_checkpoint": "checkpoint",
    "load_model": "checkpoint",
}
__all__ = [
    "CheckpointError",
    "CheckpointInfo",
    "ImageError",
    "ModelConfig",
    "ModelError",
    "PromptSG",
    "inspect_checkpoint",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
