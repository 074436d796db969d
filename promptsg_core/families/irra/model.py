"""The model of IRRA (arXiv:2303.12501).

CLS alone is read after the last block, so a score reaches the patches through that block's attention and nowhere else.
Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels, E joint width, C classes, H heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from promptsg_core.cameras import Cameras, refuse_cameras
from promptsg_core.families.irra.config import IrraConfig
from promptsg_core.families.irra.text_maps import (
    NormedAttention,
    TextAttention,
    needs_captions,
    seeks_a_word,
    text_maps,
)
from promptsg_core.families.irra.texts import Texts
from promptsg_core.families.map_names import CLS_ATTENTION, CROSS_ATTENTION, PATCH_TEXT
from promptsg_core.model import ReidModel, TraceRequest
from promptsg_core.outputs import HeadOutput
from promptsg_core.prompts import Captions, Prompt
from promptsg_core.taps import Layer, Taps
from promptsg_core.towers.blocks import one_by_one
from promptsg_core.towers.clip import ClipTowers
from promptsg_core.towers.image_texts import CAPTION, ImageTexts, features_of, prompts_problem
from promptsg_core.towers.vision import layers_before_last_attention


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
        self._texts = Texts()

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
        return [CLS_ATTENTION, *self._maps_of_texts]

    @property
    def _maps_of_texts(self) -> list[str]:
        kinds = (PATCH_TEXT, CROSS_ATTENTION) if self.config.cross_heads else (PATCH_TEXT,)
        return [f"{kind}:{name}" for name in (CAPTION, *self.prompts) for kind in kinds]

    @property
    def class_problem(self) -> str | None:
        """Why no class can be explained."""
        if self.config.num_classes:
            return None
        return "this checkpoint has no classifier: take the target feature, similarity or text"

    @property
    def text_problem(self) -> str | None:
        """Why the target text cannot do without a caption of each image."""
        return prompts_problem(self.prompts)

    @property
    def random_levels(self) -> Mapping[str, tuple[str, ...]]:
        """The text tower keeps its weights: no way from the patches to a score meets it."""
        head = ("classifier.", "cross_attn.", "ln_pre_t.", "ln_pre_i.")
        return {"head": head, "head and tower": (*head, "base_model.visual.")}

    @property
    def prompts(self) -> Mapping[str, Prompt]:
        """The prompts by name."""
        return self._texts.prompts

    def add_prompts(self, prompts: Mapping[str, Prompt]) -> None:
        """Adds texts by name. Raises ModelError, before any is added, for one that the text tower cannot read."""
        self._texts.add(prompts, self.base_model)

    def needs_captions(self, target: str, maps: Sequence[str]) -> str | None:
        """See ReidModel."""
        if target == "text" and self.text_problem is not None:
            return "the target text"
        return next((f"the map {name}" for name in maps if needs_captions(name, self.prompts)), None)

    def reads_captions(self, target: str, maps: Sequence[str]) -> bool:
        """Where nothing needs them, a word may still be looked for in them."""
        return super().reads_captions(target, maps) or any(seeks_a_word(name, self.prompts) for name in maps)

    @torch.no_grad()
    def encode(self, images: Tensor, cameras: Cameras | None = None, captions: Captions | None = None) -> IrraEncoded:
        """(B, 3, H, W) uint8 RGB or normalised floats -> all blocks but the last, without gradient.

        Raises ModelError if cameras are given, and for another number of captions than images.
        """
        refuse_cameras(cameras)
        texts = self._texts.of(len(images), captions, self.base_model)
        return IrraEncoded(tokens=self.base_model.visual.before_last(self.prepare(images)), texts=texts)

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
        if native is not None:
            of_text = [name for name in self._maps_of_texts if name in native]
        else:
            captioned = encoded.texts.captions is not None
            of_text = [name for name in self._maps_of_texts if captioned or not needs_captions(name, self.prompts)]
        if of_text:
            with torch.no_grad():
                tower = self.base_model.visual
                projected = tower.project(tower.transformer.blocks[-1](encoded.tokens))
                out.native_maps.update(text_maps(of_text, projected, encoded.texts, self._cross))
                out.parts["patch_tokens"] = projected[:, 1:]
        return out

    @property
    def _cross(self) -> NormedAttention | None:
        if not self.config.cross_heads:
            return None
        return NormedAttention(self.cross_attn, of_texts=self.ln_pre_t, of_images=self.ln_pre_i)

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

    def _trace(self, asked: TraceRequest, gradient: bool) -> tuple[HeadOutput, list[Tensor]]:
        """(B, 3, H, W) -> HeadOutput, and the (B, H, N, N) self-attention of every block, first to last."""
        weights: list[Tensor] = []
        with torch.no_grad():
            texts = self._texts.of(len(asked.images), asked.captions, self.base_model)
            tokens = self.base_model.visual.embed(self.prepare(asked.images))
        with torch.set_grad_enabled(gradient):
            x = self.base_model.visual.transformer(tokens, record=weights)
            return self._read_out(x[:, 0], weights[-1][:, :, 0, 1:], texts, Taps()), weights

    def _each_block(self, asked: TraceRequest, encoded: IrraEncoded) -> Iterator[tuple[HeadOutput, Tensor]]:
        """(B, 3, H, W) -> HeadOutput of CLS after each block, as if it were the last, and the block's attention.

        The texts are those that `encode` has read, `captions` among them. They are constants.
        """
        tower = self.base_model.visual
        with torch.no_grad():
            embedded = tower.embed(self.prepare(asked.images))
        for tokens, weights in one_by_one(tower.transformer.blocks, embedded):
            yield self._read_out(tokens[:, 0], weights[:, :, 0, 1:], encoded.texts, Taps()), weights
