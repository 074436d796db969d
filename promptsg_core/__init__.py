"""Re-identification models for inference: families of checkpoints, the towers that they share, and preprocessing.

May use nothing else of this project. Names are imported on first use, so that `import promptsg_core` starts without
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptsg_core.checkpoint import CheckpointInfo as CheckpointInfo
    from promptsg_core.checkpoint import inspect_checkpoint as inspect_checkpoint
    from promptsg_core.checkpoint import load_model as load_model
    from promptsg_core.config import FamilyConfig as FamilyConfig
    from promptsg_core.errors import CheckpointError as CheckpointError
    from promptsg_core.errors import ImageError as ImageError
    from promptsg_core.errors import ModelError as ModelError
    from promptsg_core.families.promptsg.config import ModelConfig as ModelConfig
    from promptsg_core.families.promptsg.model import PromptSG as PromptSG
    from promptsg_core.model import ReidModel as ReidModel

_MODULES = {
    "CheckpointError": "errors",
    "CheckpointInfo": "checkpoint",
    "ImageError": "errors",
    "FamilyConfig": "config",
    "ModelConfig": "families.promptsg.config",
    "ModelError": "errors",
    "PromptSG": "families.promptsg.model",
    "ReidModel": "model",
    "inspect_checkpoint": "checkpoint",
    "load_model": "checkpoint",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
