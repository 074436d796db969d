"""PromptSG: a gradient-free `encode`, then a small `head` with named taps that a score can be traced back through.

Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels, E joint width, C classes, H heads, h w grid.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.config import ModelConfig, Prompt
from promptsg_core.mim import InversionNetwork, MimOutput, MultimodalInteraction
from promptsg_core.outputs import MIM_ATTENTION, AttentionOutputs, Encoded, HeadOutput, attention_map_name
from promptsg_core.preprocess import normalise
from promptsg_core.taps import Layer, Taps
from promptsg_core.towers.linear import linear
from promptsg_core.towers.text import PromptComposer, TextTower
from promptsg_core.towers.vision import VisionTower


class PromptSG(nn.Module):
    """The model of family H; submodules carry the names of its checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.prompts: dict[str, Prompt] = {}  # further prompts by name: each makes an attention map of its own
        self.image_encoder = VisionTower(config)
        self.text_encoder = TextTower(config)
        self.prompt_composer = PromptComposer(config)
        self.inversion = InversionNetwork(config)
        self.mim = MultimodalInteraction(config)
        self.bottleneck = nn.BatchNorm1d(config.vision_width)
        self.bottleneck_proj = nn.BatchNorm1d(config.embed_dim)
        self.classifier = nn.Linear(config.vision_width, config.num_classes, bias=False)
        self.classifier_proj = nn.Linear(config.embed_dim, config.num_classes, bias=False)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches, the shape of every map."""
        return self.config.grid

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self.image_encoder.proj.dtype

    @property
    def head_dtype(self) -> torch.dtype:
        """The type of the batch norms and classifiers: float32 also with towers in low precision."""
        return self.classifier_proj.weight.dtype

    def convert(self, dtype: torch.dtype) -> PromptSG:
        """Converts the towers and the MIM to `dtype` in place and returns self.

        The inversion network, the batch norms and the classifiers stay in float32: they take almost no time, and
        rounded running statistics would shift every feature in the same direction.
        """
        for module in (self.image_encoder, self.text_encoder, self.prompt_composer, self.mim):
            module.to(dtype)
        return self

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
        return [MIM_ATTENTION, *map(attention_map_name, self.prompts)]

    def prepare(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) on any device -> on the model's; uint8 RGB is normalised by mean and std, floats are kept."""
        images = images.to(self.image_encoder.proj.device, non_blocking=True)
        if images.dtype == torch.uint8:
            return normalise(images, self.config.mean, self.config.std, self.dtype)
        return images

    @torch.no_grad()
    def encode(self, images: Tensor) -> Encoded:
        """(B, 3, H, W) uint8 RGB or normalised floats -> Encoded, without gradient."""
        tokens = self.image_encoder(self.prepare(images))
        cls_final = self.image_encoder.ln_post(tokens[:, 0])
        v = cls_final @ self.image_encoder.proj
        further = {name: self.encode_text(v, prompt) for name, prompt in self.prompts.items()}
        return Encoded(tokens=tokens, cls_final=cls_final, v=v, text=self.encode_text(v), prompt_texts=further)

    def encode_text(self, v: Tensor, prompt: Prompt | None = None) -> Tensor:
        """(B, E) projected CLS -> text features of a prompt, by default the model's own.

        (B, E), or (1, E) for a prompt that is the same for every image.
        """
        prompt = prompt or self.config.prompt
        words = None if prompt.slot is None else self.inversion(v.to(self.inversion.fc1.weight.dtype))
        features: Tensor = self.prompt_composer(self.text_encoder, prompt, words)
        return features

    def head(self, encoded: Encoded, taps: Collection[str] = ()) -> HeadOutput:
        """Encoded -> HeadOutput. Gradients exist from the earliest of the named taps on; without taps there are none.

        Raises ValueError on a tap that is none of `layers`.
        """
        unknown = set(taps) - set(self.layers)
        if unknown:
            raise ValueError(f"no tap called {', '.join(sorted(unknown))}; there are {', '.join(self.layers)}")
        with torch.set_grad_enabled(bool(taps)):
            return self._head(encoded, Taps(taps))

    def _head(self, encoded: Encoded, taps: Taps) -> HeadOutput:
        # The scores read CLS from cls_final and v. Without it here no gradient has to be padded.
        tokens = taps.open_patches("vit_last", encoded.tokens[:, 1:].contiguous())
        post = taps.open_patches("vit_proj", self.image_encoder.ln_post(tokens))
        patches = linear(post, self.image_encoder.proj.T)
        by_position = bool({"bottleneck", "classifier"} & taps.wanted)
        mim = self.mim(encoded.text, encoded.v, patches, taps, all_tokens=by_position)
        with torch.no_grad():
            further = {n: self.mim.attend(text, patches).mean(dim=1) for n, text in encoded.prompt_texts.items()}
        return self._read_out(encoded.cls_final, patches, mim, taps, further)

    def trace(self, images: Tensor, gradient: bool = True) -> tuple[HeadOutput, list[Tensor]]:
        """(B, 3, H, W) -> HeadOutput, and the (B, H, N, N) self-attention of every block, the tower's, then the MIM's.

        With `gradient`, one graph reaches from the scores back to all of these weights, also through v and the text.
        This is a whole forward pass that keeps its activations: it takes several times as long as `encode` and `head`.
        """
        weights: list[Tensor] = []
        with torch.set_grad_enabled(gradient):
            post = self.image_encoder.ln_post(self.image_encoder(self.prepare(images), weights))
            projected = post @ self.image_encoder.proj
            v, patches = projected[:, 0], projected[:, 1:]
            mim = self.mim(self.encode_text(v), v, patches, Taps(), record=weights)
            return self._read_out(post[:, 0], patches, mim, Taps(), {}), weights

    def _read_out(
        self, cls_final: Tensor, patches: Tensor, mim: MimOutput, taps: Taps, further: dict[str, Tensor]
    ) -> HeadOutput:
        feat = self.bottleneck(cls_final.to(self.head_dtype))
        feat_proj = taps.open_vector("bottleneck", self.bottleneck_proj(mim.v_final.to(self.head_dtype)))
        logits = taps.open_vector("classifier", self.classifier_proj(feat_proj))
        if mim.tokens is not None:
            self._lay_heads(taps, mim.tokens[:, 1:], feat_proj, logits)
        parts = (feat, feat_proj) if self.config.neck_feat == "after" else (cls_final, mim.v_final)
        return HeadOutput(
            logits=logits,
            logits_cls=self.classifier(feat),
            features=torch.cat(parts, dim=1),
            attention=mim.attention_heads.mean(dim=1),
            attention_heads=mim.attention_heads,
            patch_tokens=patches,
            v_final=mim.v_final,
            cls_states=mim.cls_states,
            prompt_attention=further,
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
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D+E) retrieval features, not normalised to unit length."""
        return self.head(self.encode(images)).features

    @torch.no_grad()
    def get_attention_map(self, images: Tensor, reshape_to_image: bool = True) -> Tensor:
        """(B, 3, H, W) -> (B, h, w) float32 MIM attention summing to 1 per image; (B, h*w) without reshaping."""
        attention = self.head(self.encode(images)).attention
        return torch.unflatten(attention, 1, self.grid) if reshape_to_image else attention

    @torch.no_grad()
    def forward_with_attention(self, images: Tensor) -> AttentionOutputs:
        """(B, 3, H, W) -> logits, features, the MIM's attention and what led to them, by name."""
        encoded = self.encode(images)
        out = self.head(encoded)
        return {
            "logits": [out.logits_cls, out.logits],
            "features": out.features,
            "mim_attention": out.attention.unsqueeze(1),
            "patch_tokens": out.patch_tokens,
            "text_features": encoded.text.expand(len(images), -1),
            "cls_states": out.cls_states,
            "v_final": out.v_final,
        }

    @torch.no_grad()
    def normalised_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D+E) float32 features of unit length: their dot product is the cosine similarity."""
        features: Tensor = self(images)
        return F.normalize(features.float(), dim=1)
