"""PromptSG (CVPR 2024), as two public implementations write it: patch tokens re-weighted by text-guided attention."""

from __future__ import annotations

from promptsg_core.families.promptsg.family import FAMILIES

__all__ = ["FAMILIES"]
