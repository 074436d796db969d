"""IRRA's maps of a text: `patch_text:NAME` and `cross_attention:NAME`, where NAME is a prompt or `caption`.

The first is the cosine of each projected patch token to the text. The second is the row of EOT in the cross-attention.
For a prompt of one word it is the mean of the rows of that word's tokens in the text of the image, and zero where that
text does not have the word: see `promptsg_core.towers.image_texts`.
Legend: B images, M patches, N = 1+M tokens (CLS first), E joint width, R rows of a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.families.map_names import CROSS_ATTENTION, PATCH_TEXT
from promptsg_core.prompts import Prompt
from promptsg_core.tokenise import places_of
from promptsg_core.towers.attention import scores_of
from promptsg_core.towers.image_texts import (
    CAPTION,
    ImageTexts,
    ReadText,
    features_of,
    is_word,
    sought_in_captions,
    texts_of,
)


class TextAttention(nn.Module):
    """Attention of a text's tokens to the image's; parameters are named as in torch.nn.MultiheadAttention.

    Only the weights are computed, so the part of the projection that makes values is there and not used.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """(R, E) queries, each for one of (R, N, E) images -> (R, N) weights, mean over heads, float32 or wider."""
        width = rows.shape[-1]
        q = F.linear(rows, self.in_proj_weight[:width], self.in_proj_bias[:width])
        q = torch.unflatten(q, -1, (self.heads, -1))
        scores = scores_of(q * q.shape[-1] ** -0.5, tokens, self.in_proj_weight[width : 2 * width])
        return scores.softmax(dim=-1).mean(dim=1)


@dataclass(frozen=True)
class NormedAttention:
    """The cross-attention, and the norms of the texts' tokens and of the images' before it."""

    attention: TextAttention
    of_texts: nn.LayerNorm
    of_images: nn.LayerNorm

    def keys(self, projected: Tensor) -> Tensor:
        """(B, N, E) projected tokens -> the same, normed."""
        found: Tensor = self.of_images(projected)
        return found

    def weights(self, rows: Tensor, keys: Tensor) -> Tensor:
        """(R, E) tokens of texts, each for one of the (R, N, E) keys -> (R, N)."""
        found: Tensor = self.attention(self.of_texts(rows), keys)
        return found


def seeks_a_word(full: str, prompts: Mapping[str, Prompt]) -> bool:
    """Whether a map shows a word that is looked for in the captions."""
    native, _, name = full.partition(":")
    return native == CROSS_ATTENTION and sought_in_captions(name, prompts)


def needs_captions(full: str, prompts: Mapping[str, Prompt]) -> bool:
    """Whether a map cannot be had of an image without a caption."""
    if full.partition(":")[2] == CAPTION:
        return True
    return len(texts_of(prompts)) > 1 and seeks_a_word(full, prompts)


def text_maps(
    names: Sequence[str], projected: Tensor, texts: ImageTexts, cross: NormedAttention | None
) -> dict[str, Tensor]:
    """(B, N, E) projected tokens -> name -> (B, M). NaN for an image without the text.

    `cross` is needed for the maps of cross-attention. Raises ModelError for a text that the images do not have.
    """
    named = [(full, *full.split(":", 1)) for full in names]
    found = {full: _likeness(texts.named(name), projected[:, 1:]) for full, kind, name in named if kind == PATCH_TEXT}
    crossing = [(full, name) for full, kind, name in named if kind == CROSS_ATTENTION]
    if crossing and cross is not None:
        keys = cross.keys(projected)
        found |= {full: _cross_map(name, texts, projected, keys, cross) for full, name in crossing}
    return found


def _cross_map(name: str, texts: ImageTexts, projected: Tensor, keys: Tensor, cross: NormedAttention) -> Tensor:
    """(B, N, E) projected tokens, and normed -> (B, M)."""
    if name != CAPTION and is_word(texts.prompts[name].prompt):
        return _word_map(texts.prompts[name].prompt, texts.around(name), keys, cross)
    return cross.weights(features_of(texts.named(name), projected), keys)[:, 1:]


def _likeness(texts: Sequence[ReadText | None], patches: Tensor) -> Tensor:
    """(B, M, E) projected patch tokens -> (B, M): the cosine of each to its image's text."""
    patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
    return torch.cosine_similarity(patches, features_of(texts, patches).unsqueeze(1), dim=2)


def _word_map(word: Prompt, texts: Sequence[ReadText | None], keys: Tensor, cross: NormedAttention) -> Tensor:
    """(B, N, E) normed tokens -> (B, M): the mean of the rows of the word's tokens in each image's text.

    Zero where the text does not have the word, NaN where the image has no text.
    """
    found = torch.zeros(keys.shape[:2], device=keys.device, dtype=torch.promote_types(keys.dtype, torch.float32))
    rows, images, shares = [], [], []
    for image, text in enumerate(texts):
        if text is None:
            found[image] = torch.nan
            continue
        places = [place for each in places_of(word, text.prompt) for place in each]
        rows += [text.tokens[place] for place in places]
        images += [image] * len(places)
        shares += [1 / max(1, len(places))] * len(places)
    if rows:
        placed = torch.tensor([images, shares], dtype=torch.float64, device=keys.device)  # both in one copy
        of, parts = placed[0].long(), placed[1].to(found.dtype)
        weights = cross.weights(torch.stack(rows), keys[of])
        found.index_put_((of,), weights * parts.unsqueeze(1), accumulate=True)  # on a GPU too in one order
    return found[:, 1:]
