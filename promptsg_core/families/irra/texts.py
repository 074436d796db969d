"""The texts of IRRA's images: the prompts, which are read once, and the captions of each batch."""

from __future__ import annotations

from collections.abc import Mapping

from promptsg_core.errors import ModelError
from promptsg_core.prompts import Captions, Prompt
from promptsg_core.tokenise import read_caption
from promptsg_core.towers.clip import ClipTowers
from promptsg_core.towers.image_texts import CAPTION, ImageTexts, ReadText
from promptsg_core.towers.kept import Kept


class Texts:
    """Prompts by name. The towers that read them belong to the model, which gives them to each call."""

    def __init__(self) -> None:
        self.prompts: dict[str, Prompt] = {}
        self._read: Kept[dict[str, ReadText]] = Kept()

    def add(self, prompts: Mapping[str, Prompt], towers: ClipTowers) -> None:
        """Adds prompts. Raises ModelError, before any is added, for one that the text tower cannot read."""
        if CAPTION in prompts:
            raise ModelError(f"a prompt is called {CAPTION}, which stands for each image's own: give it another name")
        for prompt in prompts.values():
            towers.check(prompt)
        self.prompts.update(prompts)
        self._read = Kept()

    def of(self, count: int, captions: Captions | None, towers: ClipTowers) -> ImageTexts:
        """The captions of `count` images and all prompts, read.

        Raises ModelError for another number of captions, and for one that the text tower cannot read.
        """
        if captions is not None and (isinstance(captions, str) or len(captions) != count):
            given = "a single text was" if isinstance(captions, str) else f"{len(captions)} captions were"
            raise ModelError(f"{given} given for {count} images: captions= takes a list, a text or None for each")
        prompts: dict[str, ReadText] = {}
        if self.prompts:  # read again only where the tower or they have changed
            prompts = self._read.of(towers.text_parameters, lambda: _read_by_name(self.prompts, towers))
        read = None if captions is None else _read_captions(captions, towers)
        return ImageTexts(count=count, prompts=prompts, captions=read)


def _read_by_name(prompts: Mapping[str, Prompt], towers: ClipTowers) -> dict[str, ReadText]:
    tokens = towers.read(list(prompts.values()))
    return {name: ReadText(prompt, one) for (name, prompt), one in zip(prompts.items(), tokens, strict=True)}


def _read_captions(captions: Captions, towers: ClipTowers) -> tuple[ReadText | None, ...]:
    """Each different caption is read once. None where there is none, or an empty one."""
    made = [read_caption(text, towers.longest) if text and text.strip() else None for text in captions]
    different = list(dict.fromkeys(one for one in made if one is not None))
    for one in different:
        towers.check(one)
    read = {one: ReadText(one, tokens) for one, tokens in zip(different, towers.read(different), strict=True)}
    return tuple(None if one is None else read[one] for one in made)
