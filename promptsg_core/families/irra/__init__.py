"""IRRA (Jiang and Ye 2023, arXiv:2303.12501): CLIP trained to find persons by a text, with masked captions."""

from promptsg_core.families.irra.config import IrraConfig
from promptsg_core.families.irra.family import FAMILIES
from promptsg_core.families.irra.model import Irra

__all__ = ["FAMILIES", "Irra", "IrraConfig"]
