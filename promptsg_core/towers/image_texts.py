"""Which text belongs to which image: a prompt that serves all, or a caption of its own.

Legend: B images, T tokens of a text up to EOT, E joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptsg_core.errors import ModelError
from promptsg_core.prompts import Prompt

CAPTION = "caption"  # in names of maps, instead of a prompt's name


@dataclass(frozen=True)
class ReadText:
    """A text, and its projected tokens (T, E), EOT last."""

    prompt: Prompt
    tokens: Tensor


@dataclass(frozen=True, kw_only=True)
class ImageTexts:
    """The texts of B images. `captions` is None where none were given, and holds None for an image without one.

    A prompt of one word does two things: it is a text like the others, and it names a word that is looked for in the
    text of each image. The text of all images is the only prompt of several words, else the only one: what was stated
    wins. Where no prompt serves, the text of an image is its caption.
    """

    count: int
    prompts: Mapping[str, ReadText]
    captions: tuple[ReadText | None, ...] | None = None

    def named(self, name: str) -> Sequence[ReadText | None]:
        """B texts, the prompt of this name or the captions. Raises ModelError where no captions were given."""
        if name != CAPTION:
            return [self.prompts[name]] * self.count
        if self.captions is None:
            raise ModelError("maps of the images' captions were requested, and no captions were given")
        return self.captions

    @property
    def problem(self) -> str | None:
        """Why the images have no text that is theirs; None where they have, or where captions were given."""
        return None if self.captions is not None else prompts_problem(_prompts_of(self.prompts))

    def own(self) -> Sequence[ReadText | None]:
        """B texts, each image's own. Raises ModelError where no captions were given and no single prompt stands."""
        if len(common := serving(_prompts_of(self.prompts))) == 1:
            return [self.prompts[common[0]]] * self.count
        if self.captions is None:
            raise ModelError(str(self.problem))
        return self.captions

    def around(self, word: str) -> Sequence[ReadText | None]:
        """B texts, in which the prompt of one word is looked for: each image's own, else the word alone.

        Raises ModelError as `own` does where there are several prompts of more than one word.
        """
        alone = self.prompts[word]
        if all(is_word(text.prompt) for text in self.prompts.values()):
            return [caption or alone for caption in self.captions or [None] * self.count]
        return self.own()


def is_word(prompt: Prompt) -> bool:
    """Whether a text is one word."""
    return len(prompt.text.split()) == 1


def sought_in_captions(name: str, prompts: Mapping[str, Prompt]) -> bool:
    """Whether a prompt is a word that is looked for in captions, since no prompt of several words serves all images.

    Without a caption the word stands alone, unless there are several such prompts.
    """
    return name in prompts and is_word(prompts[name]) and len(texts_of(prompts)) != 1


def texts_of(prompts: Mapping[str, Prompt]) -> list[str]:
    """The names of the prompts of several words."""
    return [name for name, prompt in prompts.items() if not is_word(prompt)]


def serving(prompts: Mapping[str, Prompt]) -> list[str]:
    """The prompts of which one may be the text of all images: those of several words, else all. A single one serves."""
    return texts_of(prompts) or list(prompts)


def prompts_problem(prompts: Mapping[str, Prompt]) -> str | None:
    """Why none of the prompts serves as the text of all images; None where one does."""
    names = serving(prompts)
    if not names:
        return "no text was given: give a prompt (--prompt TEXT) or a caption of each image"
    if len(names) > 1:
        return (
            f"the prompts {', '.join(names)} were given: which is meant? Give one of them, or a caption of each image"
        )
    return None


def features_of(texts: Sequence[ReadText | None], like: Tensor) -> Tensor:
    """(B, E) the features at EOT, with the type and the device of `like`; NaN for an image without a text.

    What is computed without a text must not look like a result.
    """
    nothing = like.new_full((like.shape[-1],), torch.nan)
    return torch.stack([nothing if text is None else text.tokens[-1].to(like.dtype) for text in texts])


def _prompts_of(texts: Mapping[str, ReadText]) -> dict[str, Prompt]:
    return {name: text.prompt for name, text in texts.items()}
