"""Tokenised text templates (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Captions: TypeAlias = "Sequence[str | None]"  # a text of each image's own; None where an image has none


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A tokenised text template. `slot` is the position whose embedding the pseudo word S* replaces, or None."""

    text: str
    tokens: tuple[int, ...]
    slot: int | None


# CLIP's byte-pair tokens of the two templates, with start and end of text, without the padding to 77.
PROMPTS: dict[str, Prompt] = {
    "composed": Prompt(text="A photo of a X person", tokens=(49406, 320, 1125, 539, 320, 343, 2533, 49407), slot=5),
    "simplified": Prompt(text="A photo of a person", tokens=(49406, 320, 1125, 539, 320, 2533, 49407), slot=None),
}
