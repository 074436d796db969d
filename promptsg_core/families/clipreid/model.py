"""The model of CLIP-ReID (arXiv:2211.13977), with or without learned prompts.

CLS alone is read after the last block, so a score reaches the patches through that block's attention and nowhere else.
Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels, E joint width, C classes, T text width, H heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from promptsg_core.cameras import Cameras, camera_rows
from promptsg_core.errors import ModelError
from promptsg_core.families.clipreid.config import BEGINNING, ClipReidConfig
from promptsg_core.families.map_names import CLS_ATTENTION, PATCH_TEXT
from promptsg_core.model import ReidModel, TraceRequest
from promptsg_core.outputs import HeadOutput
from promptsg_core.prompts import Captions, Prompt
from promptsg_core.taps import Layer, Taps
from promptsg_core.towers.blocks import one_by_one
from promptsg_core.towers.text import TextTower
from promptsg_core.towers.vision import VisionTower, layers_before_last_attention

_AT_ONCE = 64  # classes, when their texts are encoded


class PromptLearner(nn.Module):
    """The learned words of each class, between the embeddings of a fixed beginning and a fixed end."""

    def __init__(self, config: ClipReidConfig) -> None:
        super().__init__()
        words, width = config.prompt_length, config.text_width
        self.cls_ctx = nn.Parameter(torch.randn(config.num_classes, words, width) * 0.02)
        after = config.context_length - words - BEGINNING
        self.token_prefix = nn.Parameter(torch.randn(1, BEGINNING, width) * 0.02)
        self.token_suffix = nn.Parameter(torch.randn(1, after, width) * 0.02)

    @property
    def end(self) -> int:
        """The position of EOT: after it the padding repeats one embedding to the end."""
        suffix = self.token_suffix[0]
        differing = (suffix != suffix[-1]).any(dim=1).nonzero()
        before_padding = 0 if not len(differing) else int(differing[-1]) + 1
        return self.token_prefix.shape[1] + self.cls_ctx.shape[1] - 1 + before_padding

    def texts(self, classes: slice) -> Tensor:
        """The (c, T+1, D) embeddings of some classes' texts, up to EOT; the tower is causal, so no more are needed."""
        words = self.cls_ctx[classes]
        prefix, suffix = (around.expand(len(words), -1, -1) for around in (self.token_prefix, self.token_suffix))
        return torch.cat([prefix, words, suffix], dim=1)[:, : self.end + 1]


@dataclass(frozen=True, kw_only=True)
class ClipReidEncoded:
    """Tokens (B, N, D) before the last block. Nothing here carries a gradient."""

    tokens: Tensor


class ClipReid(ReidModel[ClipReidConfig, ClipReidEncoded]):
    """CLIP-ReID for inference; submodules carry the names of its checkpoints."""

    def __init__(self, config: ClipReidConfig) -> None:
        super().__init__(config)
        self.image_encoder = VisionTower(config)
        self.bottleneck = nn.BatchNorm1d(config.vision_width)
        self.bottleneck_proj = nn.BatchNorm1d(config.embed_dim)
        self.classifier = nn.Linear(config.vision_width, config.num_classes, bias=False)
        self.classifier_proj = nn.Linear(config.embed_dim, config.num_classes, bias=False)
        if config.camera_rows:
            self.cv_embed = nn.Parameter(torch.randn(config.camera_rows, config.vision_width) * 0.02)
        if config.text_width:
            self.prompt_learner = PromptLearner(config)
            self.text_encoder = TextTower(config)
        self.register_buffer("_texts", None, persistent=False)  # (C, E), the features of all classes' texts

    @property
    def towers(self) -> tuple[nn.Module, ...]:
        """The image tower. The texts are encoded once, in float32."""
        return (self.image_encoder,)

    @property
    def camera_rows(self) -> int:
        """Rows of the camera embedding; 0 where it is not used."""
        return self.config.camera_rows if self.config.uses_cameras else 0

    @property
    def layers(self) -> Mapping[str, Layer]:
        """`vit_norm` alone: no score sees a patch after the last attention. After stage 1 no logits come of it."""
        outputs = {"features"} if self.config.stage_1 else {"logits", "features"}
        outputs |= {"text"} if self.config.text_width else set()
        return layers_before_last_attention("image_encoder", self.config, outputs)

    @property
    def native_maps(self) -> list[str]:
        """CLS's attention, and the likeness of each patch to the text of the predicted class."""
        return [CLS_ATTENTION, *([PATCH_TEXT] if self.config.text_width else [])]

    @property
    def class_problem(self) -> str | None:
        """Why no class can be explained."""
        if not self.config.stage_1:
            return None
        others = "feature, similarity or text" if self.config.text_width else "feature or similarity"
        return f"this is a checkpoint of stage 1, whose classifiers were never trained: take the target {others}"

    @property
    def random_levels(self) -> Mapping[str, tuple[str, ...]]:
        """The texts keep their weights: no way from the patches to a score meets them."""
        head = ("bottleneck.", "bottleneck_proj.", "classifier.", "classifier_proj.")
        return {"head": head, "head and tower": (*head, "image_encoder.", "cv_embed")}

    def add_prompts(self, prompts: Mapping[str, Prompt]) -> None:
        """Raises ModelError for any text: the file has no token embedding, only the words that were learned."""
        if prompts:
            raise ModelError(
                "a prompt was given, and CLIP-ReID checkpoints hold no token embedding to read it with: the target "
                "text and the map patch_text use the prompts that were learned for the classes"
            )

    @torch.no_grad()
    def made_ready(self) -> None:
        """Encodes the texts of all classes once."""
        if not self.config.text_width:
            return
        encode = self.text_encoder.float()
        learner = self.prompt_learner.float()
        parts = [slice(start, start + _AT_ONCE) for start in range(0, self.config.num_classes, _AT_ONCE)]
        self._texts = torch.cat([encode(learner.texts(part), learner.end) for part in parts])

    @torch.no_grad()
    def encode(
        self, images: Tensor, cameras: Cameras | None = None, captions: Captions | None = None
    ) -> ClipReidEncoded:
        """(B, 3, H, W) uint8 RGB or normalised floats -> all blocks but the last, without gradient.

        Raises ModelError where the model has camera embeddings and no cameras are given, and the other way round, and
        where captions are given.
        """
        self.refuse_captions(captions)
        on_cls = self._camera(cameras, len(images))
        return ClipReidEncoded(tokens=self.image_encoder.before_last(self.prepare(images), on_cls))

    def _camera(self, cameras: Cameras | None, count: int) -> Tensor | None:
        """(B, D) or (1, D), added to CLS; None without a camera."""
        rows = camera_rows(self.cv_embed if self.config.uses_cameras else None, cameras, count)
        return None if rows is None else (self.config.sie_coe * rows).to(self.dtype)

    def head(
        self,
        encoded: ClipReidEncoded,
        taps: Collection[str] = (),
        head: str | None = None,
        native: Collection[str] | None = None,
    ) -> HeadOutput:
        """The last block for CLS, and what is read of it. Gradients exist from the named taps on."""
        self.check_taps(taps)
        with torch.set_grad_enabled(bool(taps)):
            kept = Taps(taps)
            out = self._read_out(*self.image_encoder.last_for_cls(encoded.tokens, kept), self.check_head(head), kept)
        if PATCH_TEXT in (self.native_maps if native is None else native):
            with torch.no_grad():
                after = self.image_encoder.transformer.blocks[-1](encoded.tokens)
                self._add_patches(out, self.image_encoder.project(after[:, 1:]))
        return out

    def _read_out(self, cls: Tensor, attention: Tensor, head: str, taps: Taps) -> HeadOutput:
        """(B, D) of CLS after the last block, before `ln_post`; (B, H, M) weights of the last block.

        After stage 1 there are no classes: what the classifiers give is random, and stands in `parts` alone.
        """
        f = self.image_encoder.ln_post(cls)
        g = f @ self.image_encoder.proj
        wide = self.classifier.weight.dtype
        feat, feat_proj = self.bottleneck(f.to(wide)), self.bottleneck_proj(g.to(wide))
        logits, logits_proj = self.classifier(feat), self.classifier_proj(feat_proj)
        scores = {"proj": logits_proj, "cls": logits, "both": logits + logits_proj}[head]
        known = slice(0, 0) if self.config.stage_1 else slice(None)
        likeness = None if self._texts is None else g.to(wide) @ self._texts.T
        return HeadOutput(
            logits=logits_proj[:, known],
            scores=scores[:, known],
            features=torch.cat((feat, feat_proj) if self.config.neck_feat == "after" else (f, g), dim=1),
            native_maps={CLS_ATTENTION: attention.mean(dim=1)},
            attention_heads=attention,
            text_scores=likeness,
            taps=taps.found,
            parts={"logits": [logits, logits_proj]} | ({} if likeness is None else {"logits_text": likeness}),
        )

    def _add_patches(self, out: HeadOutput, patches: Tensor) -> None:
        """The (B, M, E) projected patch tokens, and their cosine to the text that the image is most like."""
        assert self._texts is not None and out.text_scores is not None
        text = self._texts[out.text_scores.argmax(dim=1)]
        out.native_maps[PATCH_TEXT] = torch.cosine_similarity(patches.to(text.dtype), text.unsqueeze(1), dim=2)
        out.parts["patch_tokens"] = patches
        out.parts["text_features"] = self._texts

    def _embed(self, asked: TraceRequest) -> Tensor:
        """(B, N, D): the tokens before the first block, CLS with its image's camera."""
        on_cls = self._camera(asked.cameras, len(asked.images))
        return self.image_encoder.embed(self.prepare(asked.images), on_cls)

    def _trace(self, asked: TraceRequest, gradient: bool) -> tuple[HeadOutput, list[Tensor]]:
        """(B, 3, H, W) -> HeadOutput, and the (B, H, N, N) self-attention of every block, first to last."""
        weights: list[Tensor] = []
        with torch.no_grad():
            tokens = self._embed(asked)
        with torch.set_grad_enabled(gradient):
            x = self.image_encoder.transformer(tokens, record=weights)
            return self._read_out(x[:, 0], weights[-1][:, :, 0, 1:], asked.head, Taps()), weights

    def _each_block(self, asked: TraceRequest, encoded: ClipReidEncoded) -> Iterator[tuple[HeadOutput, Tensor]]:
        """(B, 3, H, W) -> HeadOutput of CLS after each block, as if it were the last, and the block's attention."""
        with torch.no_grad():
            embedded = self._embed(asked)
        for tokens, weights in one_by_one(self.image_encoder.transformer.blocks, embedded):
            yield self._read_out(tokens[:, 0], weights[:, :, 0, 1:], asked.head, Taps()), weights
