"""PromptSG: a gradient-free `encode`, then a small `head` with named taps that a score can be traced back through.

Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels, E joint width, C classes, H heads, h w grid.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from promptsg_core.cameras import Cameras, refuse_cameras
from promptsg_core.families.map_names import MIM_ATTENTION
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.mim import InversionNetwork, MimOutput, MultimodalInteraction
from promptsg_core.families.promptsg.outputs import (
    Encoded,
    PromptSGOutput,
    attention_map_name,
)
from promptsg_core.model import ReidModel, TraceRequest
from promptsg_core.outputs import NamedOutputs
from promptsg_core.prompts import Captions, Prompt
from promptsg_core.taps import Layer, Taps
from promptsg_core.towers.blocks import one_by_one
from promptsg_core.towers.linear import linear
from promptsg_core.towers.text import PromptComposer, TextTower
from promptsg_core.towers.vision import VisionTower


class PromptSG(ReidModel[ModelConfig, Encoded]):
    """The model of family H; submodules carry the names of its checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._prompts: dict[str, Prompt] = {}  # each makes an attention map of its own
        self.image_encoder = VisionTower(config)
        self.text_encoder = TextTower(config)
        self.prompt_composer = PromptComposer(
            config.vocab_size, config.text_width, config.context_length, config.token_rows
        )
        self.inversion = InversionNetwork(config)
        self.mim = MultimodalInteraction(config)
        self.bottleneck = nn.BatchNorm1d(config.vision_width)
        self.bottleneck_proj = nn.BatchNorm1d(config.embed_dim)
        self.classifier = nn.Linear(config.vision_width, config.num_classes, bias=False)
        self.classifier_proj = nn.Linear(config.embed_dim, config.num_classes, bias=False)

    @property
    def head_dtype(self) -> torch.dtype:
        """The type of the batch norms and classifiers: float32 also with towers in low precision."""
        return self.classifier_proj.weight.dtype

    @property
    def towers(self) -> tuple[nn.Module, ...]:
        """The towers and the MIM. The inversion network stays in float32 too."""
        return self.image_encoder, self.text_encoder, self.prompt_composer, self.mim

    @property
    def random_levels(self) -> Mapping[str, tuple[str, ...]]:
        """The text tower and the inversion network keep their weights: no patch reaches a score through them."""
        head = ("mim.", "bottleneck.", "bottleneck_proj.", "classifier.", "classifier_proj.")
        return {"head": head, "head and tower": (*head, "image_encoder.")}

    @property
    def prompts(self) -> Mapping[str, Prompt]:
        """Further prompts by name."""
        return self._prompts

    def encode_parts(self, images: Tensor) -> Mapping[str, Callable[[], object]]:
        """The image tower, and the text tower for each image's own words."""
        v = self.encode(images).v

        @torch.no_grad()
        def image_tower() -> Tensor:
            found: Tensor = self.image_encoder(self.prepare(images))
            return found

        @torch.no_grad()
        def text_tower() -> Tensor:
            return self.encode_text(v)

        return {"image tower": image_tower, "text tower": text_tower}

    def check(self) -> None:
        """Raises ModelError where the token embedding does not hold the prompt's words."""
        self.prompt_composer.check(self.config.prompt)

    def add_prompts(self, prompts: Mapping[str, Prompt]) -> None:
        """Adds texts by name. Raises ModelError, before any is added, for words that the checkpoint does not have."""
        for prompt in prompts.values():
            self.prompt_composer.check(prompt)
        self._prompts.update(prompts)

    @property
    def layers(self) -> Mapping[str, Layer]:
        """The layers that maps can lie on, and which outputs each of them leads to."""
        both = frozenset({"logits", "features"})
        after_neck = both if self.config.neck_feat == "after" else frozenset({"logits"})
        post = f"mim.post_blocks.{self.config.mim_layers - 1}"
        last = f"image_encoder.transformer.resblocks.{self.config.vision_layers - 1}"
        return {
            "mim": Layer(outputs=both, modules=("mim", "mim.cross_attn", "mim.post_blocks", post, f"{post}.norm1")),
            "vit_last": Layer(outputs=both, read_through_norm="vit_proj", modules=("image_encoder.transformer", last)),
            "vit_proj": Layer(outputs=both, modules=("image_encoder.ln_post", "image_encoder")),
            "bottleneck": Layer(outputs=after_neck, modules=("bottleneck_proj",)),
            "classifier": Layer(outputs=frozenset({"logits"}), modules=("classifier_proj",)),
        }

    @property
    def native_maps(self) -> list[str]:
        """Names of the maps that the model computes itself: the MIM's attention, and that for each further prompt."""
        return [MIM_ATTENTION, *map(attention_map_name, self._prompts)]

    @torch.no_grad()
    def encode(self, images: Tensor, cameras: Cameras | None = None, captions: Captions | None = None) -> Encoded:
        """(B, 3, H, W) uint8 RGB or normalised floats -> Encoded, without gradient.

        Raises ModelError if cameras or captions are given: the model has no use for them.
        """
        self.refuse_captions(captions)
        refuse_cameras(cameras)
        tokens = self.image_encoder(self.prepare(images))
        cls_final = self.image_encoder.ln_post(tokens[:, 0])
        v = cls_final @ self.image_encoder.proj
        further = {name: self.encode_text(v, prompt) for name, prompt in self._prompts.items()}
        return Encoded(tokens=tokens, cls_final=cls_final, v=v, text=self.encode_text(v), prompt_texts=further)

    def encode_text(self, v: Tensor, prompt: Prompt | None = None) -> Tensor:
        """(B, E) projected CLS -> text features of a prompt, by default the model's own.

        (B, E), or (1, E) for a prompt that is the same for every image.
        """
        prompt = prompt or self.config.prompt
        words = None if prompt.slot is None else self.inversion(v.to(self.inversion.fc1.weight.dtype))
        features: Tensor = self.prompt_composer(self.text_encoder, prompt, words)
        return features

    def head(
        self,
        encoded: Encoded,
        taps: Collection[str] = (),
        head: str | None = None,
        native: Collection[str] | None = None,
    ) -> PromptSGOutput:
        """Encoded -> PromptSGOutput. Gradients exist from the earliest of the named taps on; without taps none do.

        Raises ValueError on a tap that is none of `layers`.
        """
        self.check_taps(taps)
        self.check_head(head)
        with torch.set_grad_enabled(bool(taps)):
            return self._head(encoded, Taps(taps))

    def _head(self, encoded: Encoded, taps: Taps) -> PromptSGOutput:
        # The scores read CLS from cls_final and v. Without it here no gradient has to be padded.
        tokens = taps.open_patches("vit_last", encoded.tokens[:, 1:].contiguous())
        post = taps.open_patches("vit_proj", self.image_encoder.ln_post(tokens))
        patches = linear(post, self.image_encoder.proj.T)
        by_position = bool({"bottleneck", "classifier"} & taps.wanted)
        mim = self.mim(encoded.text, encoded.v, patches, taps, all_tokens=by_position)
        with torch.no_grad():
            further = {n: self.mim.attend(text, patches).mean(dim=1) for n, text in encoded.prompt_texts.items()}
        return self._read_out(encoded.cls_final, patches, mim, taps, further)

    def _trace(self, asked: TraceRequest, gradient: bool) -> tuple[PromptSGOutput, list[Tensor]]:
        """(B, 3, H, W) -> PromptSGOutput, and the (B, H, N, N) self-attention of the tower's blocks, then the MIM's.

        With `gradient`, one graph reaches from the scores back to all of these weights, also through v and the text.
        This is a whole forward pass that keeps its activations: it takes several times as long as `encode` and `head`.
        """
        weights: list[Tensor] = []
        with torch.set_grad_enabled(gradient):
            post = self.image_encoder.ln_post(self.image_encoder(self.prepare(asked.images), weights))
            projected = post @ self.image_encoder.proj
            v, patches = projected[:, 0], projected[:, 1:]
            mim = self.mim(self.encode_text(v), v, patches, Taps(), record=weights)
            return self._read_out(post[:, 0], patches, mim, Taps(), {}), weights

    def _each_block(self, asked: TraceRequest, encoded: Encoded) -> Iterator[tuple[PromptSGOutput, Tensor]]:
        """(B, 3, H, W) -> PromptSGOutput as if each block were the last, of the tower, then of the MIM; its attention.

        A block of the tower is followed by `ln_post`, `proj` and the whole MIM, whose text is made of this block's CLS.
        CLS of a post block is taken as v_final.
        """
        yield from self._each_tower_block(asked.images)
        yield from self._each_post_block(encoded)

    def _each_tower_block(self, images: Tensor) -> Iterator[tuple[PromptSGOutput, Tensor]]:
        """PromptSGOutput as if each block were the tower's last, and the block's (B, H, N, N) attention."""
        with torch.no_grad():
            embedded = self.image_encoder.embed(self.prepare(images))
        for tokens, weights in one_by_one(self.image_encoder.transformer.blocks, embedded):
            post = self.image_encoder.ln_post(tokens)
            projected = post @ self.image_encoder.proj
            v, patches = projected[:, 0], projected[:, 1:]
            mim = self.mim(self.encode_text(v), v, patches, Taps())
            yield self._read_out(post[:, 0], patches, mim, Taps(), {}), weights

    def _each_post_block(self, encoded: Encoded) -> Iterator[tuple[PromptSGOutput, Tensor]]:
        """PromptSGOutput as if each post block were the last, and the block's (B, H, N, N) attention."""
        with torch.no_grad():
            patches = self.image_encoder.ln_post(encoded.tokens[:, 1:]) @ self.image_encoder.proj
            heads = self.mim.attend(encoded.text, patches)
            attention = heads.mean(dim=1)
            weighed = self.mim.weigh(patches, attention)
            embedded = torch.cat([encoded.v.unsqueeze(1), weighed], dim=1)
        for tokens, weights in one_by_one(self.mim.blocks, embedded):
            cls = tokens[:, 0]
            mim = MimOutput(v_final=cls, attention_heads=heads, attention=attention, cls_states=[cls], tokens=None)
            yield self._read_out(encoded.cls_final, patches, mim, Taps(), {}), weights

    def _read_out(
        self, cls_final: Tensor, patches: Tensor, mim: MimOutput, taps: Taps, further: dict[str, Tensor]
    ) -> PromptSGOutput:
        feat = self.bottleneck(cls_final.to(self.head_dtype))
        feat_proj = taps.open_vector("bottleneck", self.bottleneck_proj(mim.v_final.to(self.head_dtype)))
        logits = taps.open_vector("classifier", self.classifier_proj(feat_proj))
        if mim.tokens is not None:
            self._lay_heads(taps, mim.tokens[:, 1:], feat_proj, logits)
        parts = (feat, feat_proj) if self.config.neck_feat == "after" else (cls_final, mim.v_final)
        return PromptSGOutput(
            logits=logits,
            scores=logits,
            logits_cls=self.classifier(feat),
            features=torch.cat(parts, dim=1),
            attention=mim.attention,
            native_maps={MIM_ATTENTION: mim.attention, **{attention_map_name(n): a for n, a in further.items()}},
            attention_heads=mim.attention_heads,
            patch_tokens=patches,
            v_final=mim.v_final,
            cls_states=mim.cls_states,
            taps=taps.found,
        )

    @torch.no_grad()
    def _lay_heads(self, taps: Taps, tokens: Tensor, feat_proj: Tensor, logits: Tensor) -> None:
        """Puts each of the (B, M, E) output tokens through the head, as a 1x1 convolution would."""
        bottleneck = self.bottleneck_proj(tokens.to(self.head_dtype).transpose(1, 2)).transpose(1, 2)
        taps.lay("bottleneck", feat_proj, bottleneck)
        if "classifier" in taps.wanted:
            taps.lay("classifier", logits, self.classifier_proj(bottleneck))

    @torch.no_grad()
    def forward_with_attention(
        self, images: Tensor, cameras: Cameras | None = None, captions: Captions | None = None
    ) -> NamedOutputs:
        """(B, 3, H, W) -> by name: logits of the CLS head and of the MIM head, features (B, D+E), mim_attention
        (B, 1, M), patch_tokens (B, M, E), text_features (B, E), cls_states: CLS (B, E) after each post block, v_final.
        """
        encoded = self.encode(images, cameras, captions)
        out = self.head(encoded)
        return {
            "logits": [out.logits_cls, out.logits],
            "features": out.features,
            MIM_ATTENTION: out.attention.unsqueeze(1),
            "patch_tokens": out.patch_tokens,
            "text_features": encoded.text.expand(len(images), -1),
            "cls_states": out.cls_states,
            "v_final": out.v_final,
        }
