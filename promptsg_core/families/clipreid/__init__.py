"""CLIP-ReID ViT (Li, Sun and Li 2023, arXiv:2211.13977), with or without learned prompts, and its baseline."""

from promptsg_core.families.clipreid.config import ClipReidConfig
from promptsg_core.families.clipreid.family import FAMILIES, ClipReidFamily
from promptsg_core.families.clipreid.model import ClipReid

__all__ = ["FAMILIES", "ClipReid", "ClipReidConfig", "ClipReidFamily"]
