"""The model of IRRA (arXiv:2303.12501).

CLS alone is read after the last block, so a score reaches the patches through that block's attention and nowhere else.
Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels, E joint width, C classes, H heads, R rows of a text.

The maps of a text are `patch_text:NAME` and `cross_attention:NAME`, where NAME is a prompt or `caption`. The second is
the row of EOT. For a prompt of one word it is the mean of the rows of that word's tokens in the text of the image, and
zero where that text does not have the word: see `promptsg_core.towers.image_texts`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.cameras import Cameras, refuse_cameras
from promptsg_core.errors import ModelError
from promptsg_core.families.irra.config import IrraConfig
from promptsg_core.families.map_names import CLS_ATTENTION, CROSS_ATTENTION, PATCH_TEXT
from promptsg_core.model import ReidModel
from promptsg_core.outputs import HeadOutput
from promptsg_core.prompts import Captions, Prompt
from promptsg_core.taps import Layer, Taps
from promptsg_core.tokenise import places_of, read_caption
from promptsg_core.towers.attention import scores_of
from promptsg_core.towers.blocks import one_by_one
from promptsg_core.towers.clip import ClipTowers
from promptsg_core.towers.image_texts import (
    CAPTION,
    ImageTexts,
    ReadText,
    features_of,
    is_word,
    prompts_problem,
    sought_in_captions,
    texts_of,
)
from promptsg_core.towers.kept import Kept
from promptsg_core.towers.vision import layers_before_last_attention


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


@dataclass(frozen=True, kw_only=True)
class IrraEncoded:
    """Tokens (B, N, D) before the last block, and the images' texts. Nothing here carries a gradient."""

    tokens: Tensor
    texts: ImageTexts


class Irra(ReidModel[IrraConfig, IrraEncoded]):
    """IRRA for inference; submodules carry the names of its checkpoints."""

    takes_captions = True

    def __init__(self, config: IrraConfig) -> None:
        super().__init__(config)
        self.base_model = ClipTowers(config, config.vocab_size)
        if config.num_classes:
            self.classifier = nn.Linear(config.embed_dim, config.num_classes)
        if config.cross_heads:
            self.cross_attn = TextAttention(config.embed_dim, config.cross_heads)
            self.ln_pre_t = nn.LayerNorm(config.embed_dim)
            self.ln_pre_i = nn.LayerNorm(config.embed_dim)
        self._prompts: dict[str, Prompt] = {}
        self._read: Kept[dict[str, ReadText]] = Kept()  # the prompts, read

    @property
    def towers(self) -> tuple[nn.Module, ...]:
        """Both towers and the cross-attention."""
        further = (self.cross_attn, self.ln_pre_t, self.ln_pre_i) if self.config.cross_heads else ()
        return self.base_model, *further

    @property
    def layers(self) -> Mapping[str, Layer]:
        """`vit_norm` alone: no score sees a patch after the last attention."""
        outputs = {"features", "text"} | ({"logits"} if self.config.num_classes else set())
        return layers_before_last_attention("base_model.visual", self.config, outputs)

    @property
    def native_maps(self) -> list[str]:
        """CLS's attention, and two maps for the captions and for each prompt."""
        of_text = (PATCH_TEXT, CROSS_ATTENTION) if self.config.cross_heads else (PATCH_TEXT,)
        return [CLS_ATTENTION, *(f"{native}:{name}" for name in (CAPTION, *self._prompts) for native in of_text)]

    @property
    def class_problem(self) -> str | None:
        """Why no class can be explained."""
        if self.config.num_classes:
            return None
        return "this checkpoint has no classifier: take the target feature, similarity or text"

    @property
    def text_problem(self) -> str | None:
        """Why the target text cannot do without a caption of each image."""
        return prompts_problem(self._prompts)

    @property
    def random_levels(self) -> Mapping[str, tuple[str, ...]]:
        """The text tower keeps its weights: no way from the patches to a score meets it."""
        head = ("classifier.", "cross_attn.", "ln_pre_t.", "ln_pre_i.")
        return {"head": head, "head and tower": (*head, "base_model.visual.")}

    @property
    def prompts(self) -> Mapping[str, Prompt]:
        """The prompts by name."""
        return self._prompts

    def add_prompts(self, prompts: Mapping[str, Prompt]) -> None:
        """Adds texts by name. Raises ModelError, before any is added, for one that the text tower cannot read."""
        if CAPTION in prompts:
            raise ModelError(f"a prompt is called {CAPTION}, which stands for each image's own: give it another name")
        for prompt in prompts.values():
            self.base_model.check(prompt)
        self._prompts.update(prompts)
        self._read = Kept()

    def needs_captions(self, target: str, maps: Sequence[str]) -> str | None:
        """See ReidModel."""
        if target == "text" and self.text_problem is not None:
            return "the target text"
        several = len(texts_of(self._prompts)) > 1
        needing = (name for name in maps if name.endswith(f":{CAPTION}") or (several and self._seeks_a_word(name)))
        return next((f"the map {name}" for name in needing), None)

    def reads_captions(self, target: str, maps: Sequence[str]) -> bool:
        """Where nothing needs them, a word may still be looked for in them."""
        return super().reads_captions(target, maps) or any(map(self._seeks_a_word, maps))

    def _seeks_a_word(self, name: str) -> bool:
        """Whether a map shows a word in the captions."""
        native, _, prompt = name.partition(":")
        return native == CROSS_ATTENTION and sought_in_captions(prompt, self._prompts)

    @torch.no_grad()
    def encode(self, images: Tensor, cameras: Cameras | None = None, captions: Captions | None = None) -> IrraEncoded:
        """(B, 3, H, W) uint8 RGB or normalised floats -> all blocks but the last, without gradient.

        Raises ModelError if cameras are given, and for another number of captions than images.
        """
        refuse_cameras(cameras)
        texts = self._texts(len(images), captions)
        return IrraEncoded(tokens=self.base_model.visual.before_last(self.prepare(images)), texts=texts)

    def _texts(self, count: int, captions: Captions | None) -> ImageTexts:
        """The captions of `count` images and all prompts, read."""
        if captions is not None and (isinstance(captions, str) or len(captions) != count):
            given = "a single text was" if isinstance(captions, str) else f"{len(captions)} captions were"
            raise ModelError(f"{given} given for {count} images: captions= takes a list, a text or None for each")
        prompts = self._read_prompts()
        if captions is None:
            return ImageTexts(count=count, prompts=prompts)
        longest = self.config.context_length
        made = [read_caption(text, longest) if text and text.strip() else None for text in captions]
        different = list(dict.fromkeys(one for one in made if one is not None))
        for one in different:
            self.base_model.check(one)
        read = {
            one: ReadText(one, tokens) for one, tokens in zip(different, self.base_model.read(different), strict=True)
        }
        return ImageTexts(
            count=count, prompts=prompts, captions=tuple(None if one is None else read[one] for one in made)
        )

    def _read_prompts(self) -> Mapping[str, ReadText]:
        """The prompts, which are read again only where the tower or they have changed."""
        if not self._prompts:
            return {}
        return self._read.of(self.base_model.text_parameters, self._read_anew)

    def _read_anew(self) -> dict[str, ReadText]:
        tokens = self.base_model.read(list(self._prompts.values()))
        return {name: ReadText(self._prompts[name], one) for name, one in zip(self._prompts, tokens, strict=True)}

    def head(
        self,
        encoded: IrraEncoded,
        taps: Collection[str] = (),
        head: str | None = None,
        native: Collection[str] | None = None,
    ) -> HeadOutput:
        """The last block for CLS, and what is read of it. Gradients exist from the named taps on.

        Raises ModelError for a map of a text in `native` that the images do not have.
        """
        self.check_taps(taps)
        self.check_head(head)
        with torch.set_grad_enabled(bool(taps)):
            kept = Taps(taps)
            out = self._read_out(*self.base_model.visual.last_for_cls(encoded.tokens, kept), encoded.texts, kept)
        of_text = [name for name in self._possible(encoded.texts) if native is None or name in native]
        of_text += [name for name in native or () if name in self.native_maps and name not in (CLS_ATTENTION, *of_text)]
        if of_text:
            with torch.no_grad():
                tower = self.base_model.visual
                projected = tower.project(tower.transformer.blocks[-1](encoded.tokens))
                out.native_maps.update(self._text_maps(of_text, projected, encoded.texts))
                out.parts["patch_tokens"] = projected[:, 1:]
        return out

    def _read_out(self, cls: Tensor, attention: Tensor, texts: ImageTexts, taps: Taps) -> HeadOutput:
        """(B, D) of CLS after the last block, before `ln_post`; (B, H, M) weights of the last block."""
        feature = self.base_model.visual.project(cls)
        wide = feature.to(torch.promote_types(feature.dtype, torch.float32))
        logits = self.classifier(wide) if self.config.num_classes else wide.new_zeros(len(wide), 0)
        text = None if texts.problem else features_of(texts.own(), wide)
        return HeadOutput(
            logits=logits,
            scores=logits,
            features=feature,
            native_maps={CLS_ATTENTION: attention.mean(dim=1)},
            attention_heads=attention,
            text_scores=None if text is None else torch.cosine_similarity(wide, text, dim=1).unsqueeze(1),
            text_problem=texts.problem,
            taps=taps.found,
            parts={} if text is None else {"text_features": text},
        )

    def _possible(self, texts: ImageTexts) -> list[str]:
        """The maps of texts that the images have."""
        names = [name for name in (CAPTION, *self._prompts) if name != CAPTION or texts.captions is not None]
        found = [f"{PATCH_TEXT}:{name}" for name in names]
        if self.config.cross_heads:
            several = len(texts_of(self._prompts)) > 1 and texts.captions is None
            words = {name for name, prompt in self._prompts.items() if several and is_word(prompt)}
            found += [f"{CROSS_ATTENTION}:{name}" for name in names if name not in words]
        return found

    def _text_maps(self, names: Sequence[str], projected: Tensor, texts: ImageTexts) -> dict[str, Tensor]:
        """(B, N, E) projected tokens -> name -> (B, M). NaN for an image without the text."""
        found: dict[str, Tensor] = {}
        keys = self.ln_pre_i(projected) if self.config.cross_heads else projected
        for full in names:
            native, _, name = full.partition(":")
            if native == PATCH_TEXT:
                patches = projected[:, 1:].to(torch.promote_types(projected.dtype, torch.float32))
                text = features_of(texts.named(name), patches).unsqueeze(1)
                found[full] = torch.cosine_similarity(patches, text, dim=2)
            elif name in self._prompts and is_word(self._prompts[name]):
                found[full] = self._word_map(self._prompts[name], texts.around(name), keys)
            else:
                rows = features_of(texts.named(name), projected)
                found[full] = self.cross_attn(self.ln_pre_t(rows), keys)[:, 1:]
        return found

    def _word_map(self, word: Prompt, texts: Sequence[ReadText | None], keys: Tensor) -> Tensor:
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
            weights = self.cross_attn(self.ln_pre_t(torch.stack(rows)), keys[of])
            found.index_put_((of,), weights * parts.unsqueeze(1), accumulate=True)  # on a GPU too in one order
        return found[:, 1:]

    def trace(
        self,
        images: Tensor,
        gradient: bool = True,
        cameras: Cameras | None = None,
        head: str | None = None,
        captions: Captions | None = None,
    ) -> tuple[HeadOutput, list[Tensor]]:
        """(B, 3, H, W) -> HeadOutput, and the (B, H, N, N) self-attention of every block, first to last."""
        refuse_cameras(cameras)
        self.check_head(head)
        weights: list[Tensor] = []
        with torch.no_grad():
            texts = self._texts(len(images), captions)
            tokens = self.base_model.visual.embed(self.prepare(images))
        with torch.set_grad_enabled(gradient):
            x = self.base_model.visual.transformer(tokens, record=weights)
            return self._read_out(x[:, 0], weights[-1][:, :, 0, 1:], texts, Taps()), weights

    def each_block(
        self,
        images: Tensor,
        encoded: IrraEncoded,
        cameras: Cameras | None = None,
        head: str | None = None,
        captions: Captions | None = None,
    ) -> Iterator[tuple[HeadOutput, Tensor]]:
        """(B, 3, H, W) -> HeadOutput of CLS after each block, as if it were the last, and the block's attention.

        The texts are those that `encode` has read, `captions` among them. They are constants.
        """
        refuse_cameras(cameras)
        self.check_head(head)
        tower = self.base_model.visual
        with torch.no_grad():
            embedded = tower.embed(self.prepare(images))
        for tokens, weights in one_by_one(tower.transformer.blocks, embedded):
            yield self._read_out(tokens[:, 0], weights[:, :, 0, 1:], encoded.texts, Taps()), weights
