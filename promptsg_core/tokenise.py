"""Free text to a Prompt, with CLIP's own vocabulary from open_clip (the extra `prompts`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol, cast

from promptsg_core.errors import ModelError
from promptsg_core.prompts import PROMPTS, Prompt

START, END, PLACEHOLDER = 49406, 49407, 343
_LENGTH = 77
_X = re.compile(r"(?<!\w)X(?!\w)")
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*)=(.*)", re.DOTALL)
_SLUG_LENGTH = 48


def make_prompt(text: str) -> Prompt:
    """The tokens of a text. A lone capital X stands for the person on each image, as an inverted pseudo word.

    The two built-in templates need no tokenizer; other texts need the extra `prompts`. Raises ModelError where that is
    missing, for a text that is empty or too long for CLIP, and for more than one X.
    """
    text = " ".join(text.split())
    for prompt in PROMPTS.values():
        if text.lower() == prompt.text.lower():
            return prompt
    places = [match.start() for match in _X.finditer(text)]
    if not text or len(places) > 1:
        raise ModelError(f"the prompt {text!r} must have some text and at most one X")
    tokens = (START, *_tokenizer().encode(text), END)
    if len(tokens) > _LENGTH:
        raise ModelError(f"the prompt {text[:40]!r}... is {len(tokens)} tokens long; CLIP reads {_LENGTH}")
    slot = 1 + len(_tokenizer().encode(text[: places[0]])) if places else None
    if slot is not None and tokens[slot] != PLACEHOLDER:
        raise ModelError(f"the prompt {text!r}: X must be a word of its own")
    return Prompt(text=text, tokens=tokens, slot=slot)


@lru_cache(maxsize=65536)
def read_caption(text: str, longest: int = _LENGTH) -> Prompt:
    """The tokens of a description of an image. One that is too long loses its end, as in IRRA's own code.

    Unlike in a prompt, X is a letter. Raises ModelError where the extra `prompts` is missing.
    """
    tokens = (START, *_tokenizer().encode(text), END)
    return Prompt(text=text, tokens=tokens if len(tokens) <= longest else (*tokens[: longest - 1], END), slot=None)


def places_of(word: Prompt, text: Prompt) -> tuple[tuple[int, ...], ...]:
    """The positions of a word's tokens in a text, for each time that it stands there as a whole word.

    CLIP's words consist of tokens of which the last ends in `</w>`: `pack` is not found in `backpack`.
    """
    wanted, decoder = word.tokens[1:-1], _tokenizer().decoder
    starts = [
        place for place in range(1, len(text.tokens) - len(wanted)) if _ends_a_word(text.tokens[place - 1], decoder)
    ]
    return tuple(
        tuple(range(place, place + len(wanted)))
        for place in starts
        if text.tokens[place : place + len(wanted)] == wanted
    )


def _ends_a_word(token: int, decoder: Mapping[int, str]) -> bool:
    return token == START or decoder[token].endswith("</w>")


def parse_prompts(texts: tuple[str, ...]) -> dict[str, str]:
    """`TEXT` or `NAME=TEXT` -> name: text. Without a name, one is made of the text.

    Raises ModelError when two prompts have the same name.
    """
    found: dict[str, str] = {}
    for entry in texts:
        named = _NAMED.fullmatch(entry)
        name, text = (named[1], named[2]) if named else (slug_of(entry), entry)
        if name in found:
            raise ModelError(f"two prompts are called {name}: {found[name]!r} and {text!r}; write NAME=TEXT")
        found[name] = text.strip()
    return found


def slug_of(text: str) -> str:
    """A name for a prompt: its words in small letters, joined by underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:_SLUG_LENGTH].rstrip("_") or "prompt"


class _Tokenizer(Protocol):
    decoder: Mapping[int, str]

    def encode(self, text: str) -> list[int]: ...


@lru_cache(maxsize=1)
def _tokenizer() -> _Tokenizer:
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError as error:
        raise ModelError(
            "free text needs CLIP's vocabulary: pip install '.[prompts]' in the source folder, or open_clip_torch"
        ) from error
    return cast(_Tokenizer, SimpleTokenizer())
