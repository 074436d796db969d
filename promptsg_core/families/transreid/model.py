"""The model of TransReID ViT (He et al. 2021, arXiv:2102.04378), with or without its jigsaw patch module (JPM).

CLS alone is read after the last block, so a score reaches the patches through that block's attention and nowhere else.
With JPM there are two last blocks: b1 reads all patches, b2 each of four stripes.
Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels, C classes, H heads, S stripes (4 or 0), P patches of
a stripe.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.cameras import Cameras, camera_rows
from promptsg_core.families.map_names import CLS_ATTENTION, LOCAL_ATTENTION
from promptsg_core.families.transreid.config import ALL, GLOBAL, TransReidConfig
from promptsg_core.families.transreid.stripes import STRIPES
from promptsg_core.model import ReidModel, TraceRequest
from promptsg_core.outputs import HeadOutput
from promptsg_core.prompts import Captions
from promptsg_core.taps import Layer, Taps, unseen_layers
from promptsg_core.towers.blocks import one_by_one
from promptsg_core.towers.timm_vit import EPSILON, BlockSizes, TimmBlock, TimmSizes, TimmVit


@dataclass(frozen=True, kw_only=True)
class TransReidEncoded:
    """Tokens (B, N, D) before the last block. Nothing here carries a gradient."""

    tokens: Tensor


@dataclass(frozen=True, kw_only=True)
class _Branches:
    """What is read of the last blocks: (B, D) of all patches and (B, D) of each stripe; (B, H, M) weights of CLS.

    `local_attention` is (B, M), None where no stripes are read.
    """

    whole: Tensor
    local: tuple[Tensor, ...]
    attention: Tensor
    local_attention: Tensor | None


class TransReid(ReidModel[TransReidConfig, TransReidEncoded]):
    """TransReID for inference; submodules carry the names of its checkpoints."""

    camera_fallbacks = ("mean",)  # the author's code cannot run without a camera

    def __init__(self, config: TransReidConfig) -> None:
        super().__init__(config)
        width, classes = config.vision_width, config.num_classes
        block = BlockSizes(
            width=width,
            heads=config.vision_heads,
            mlp_width=config.mlp_width,
            scale=config.scale,
            qkv_bias=config.qkv_bias,
        )
        self.base = TimmVit(
            TimmSizes(
                image_size=config.image_size,
                patch_size=config.patch_size,
                stride=config.stride,
                layers=config.vision_layers - config.jpm,
                block=block,
                cameras=config.camera_rows,
                normed=not config.jpm,
            )
        )
        if config.jpm:
            self.b1 = nn.Sequential(TimmBlock(block), nn.LayerNorm(width, eps=EPSILON))
            self.b2 = nn.Sequential(TimmBlock(block), nn.LayerNorm(width, eps=EPSILON))
        for end in self._ends:
            self.add_module(f"bottleneck{end}", nn.BatchNorm1d(width))
            self.add_module(f"classifier{end}", nn.Linear(width, classes, bias=False))
        self.register_buffer("_gathered", None, persistent=False)  # (S, 1+P), the tokens of each stripe, CLS first

    @property
    def _ends(self) -> tuple[str, ...]:
        """Of the names of the necks and classifiers."""
        return ("", *(f"_{number}" for number in range(1, 1 + STRIPES * self.config.jpm)))

    @property
    def towers(self) -> tuple[nn.Module, ...]:
        """The tower, and JPM's last blocks."""
        return (self.base, self.b1, self.b2) if self.config.jpm else (self.base,)

    @property
    def camera_rows(self) -> int:
        """Rows of the camera embedding; 0 without one."""
        return self.config.camera_rows

    @property
    def layers(self) -> Mapping[str, Layer]:
        """The first norms of the last blocks: no score sees a patch after their attention.

        The stripes are read by the feature, and by the logits of the head `all` alone.
        """
        last = "b1.0" if self.config.jpm else f"base.blocks.{self.config.vision_layers - 1}"
        modules = ("base", last, f"{last}.norm1", *(("b1",) if self.config.jpm else ()))
        found = {"vit_norm": Layer(outputs=frozenset({"logits", "features"}), modules=modules)}
        if self.config.jpm:
            outputs = frozenset({f"logits:{ALL}", "features"})
            found["local_norm"] = Layer(outputs=outputs, modules=("b2", "b2.0", "b2.0.norm1"))
        return {**found, **unseen_layers()}

    @property
    def native_maps(self) -> list[str]:
        """CLS's attention in the last block, and in the one that reads the stripes."""
        return [CLS_ATTENTION, *([LOCAL_ATTENTION] if self.config.jpm else [])]

    @property
    def random_levels(self) -> Mapping[str, tuple[str, ...]]:
        """The necks and classifiers, then everything."""
        return {"head": ("bottleneck", "classifier"), "head and tower": ("",)}

    def made_ready(self) -> None:
        """Lays down which tokens each stripe gathers."""
        if self.config.jpm:
            self._gathered = torch.tensor([[0, *(1 + patch for patch in one)] for one in self.config.stripes()])

    @torch.no_grad()
    def encode(
        self, images: Tensor, cameras: Cameras | None = None, captions: Captions | None = None
    ) -> TransReidEncoded:
        """(B, 3, H, W) uint8 RGB or normalised floats -> all blocks but the last, without gradient.

        `cameras` "mean" is the average camera, which is an approximation: the author's code has none. Raises ModelError
        where the model has camera embeddings and no cameras are given, and the other way round, and where captions are
        given.
        """
        self.refuse_captions(captions)
        tokens = self._embed(images, cameras)
        return TransReidEncoded(tokens=self.base.run(tokens, self.config.vision_layers - 1))

    def _embed(self, images: Tensor, cameras: Cameras | None) -> Tensor:
        """(B, 3, H, W) -> (B, N, D): the tokens before the first block, each with its image's camera."""
        embedding = self.base.sie_embed[:, 0] if self.config.camera_rows else None
        rows = camera_rows(embedding, cameras, len(images), self.camera_fallbacks)
        return self.base.embed(self.prepare(images), None if rows is None else self.config.sie_coe * rows)

    def head(
        self,
        encoded: TransReidEncoded,
        taps: Collection[str] = (),
        head: str | None = None,
        native: Collection[str] | None = None,
    ) -> HeadOutput:
        """The last blocks for CLS, and what is read of them. Gradients exist from the named taps on."""
        self.check_taps(taps)
        with torch.set_grad_enabled(bool(taps)):
            kept = Taps(taps)
            block, norm = self._last
            normed = kept.open("vit_norm", block.norm1(encoded.tokens))
            cls, weights = block.cls_only(encoded.tokens[:, 0], normed)
            local, local_attention = self._local(encoded.tokens, kept)
            branches = _Branches(
                whole=norm(cls), local=local, attention=weights[..., 1:], local_attention=local_attention
            )
            return self._read_out(branches, self.check_head(head), kept)

    @property
    def _last(self) -> tuple[TimmBlock, nn.Module]:
        """The last block over all patches, and the norm after it."""
        if not self.config.jpm:
            return self.base.block(-1), self.base.norm
        return cast(TimmBlock, self.b1[0]), self.b1[1]

    def _local(self, tokens: Tensor, taps: Taps) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """(B, N, D) -> (B, D) of each stripe, and the (B, M) attention of CLS, all stripes in their places."""
        if not self.config.jpm:
            return (), None
        block, gathered = cast(TimmBlock, self.b2[0]), self._gathered
        assert gathered is not None
        normed = taps.open("local_norm", block.norm1(tokens))
        cls = tokens[:, 0].repeat_interleave(STRIPES, dim=0)
        cls, weights = block.cls_only(cls, normed[:, gathered].flatten(0, 1))
        found: Tensor = torch.unflatten(self.b2[1](cls), 0, (-1, STRIPES))
        shares = torch.unflatten(weights.detach().mean(dim=1)[:, 1:] / STRIPES, 0, (-1, STRIPES)).flatten(1)
        empty = shares.new_zeros(len(tokens), tokens.shape[1] - 1)
        return found.unbind(dim=1), empty.index_add(1, gathered[:, 1:].flatten() - 1, shares)

    def _read_out(self, branches: _Branches, head: str, taps: Taps) -> HeadOutput:
        wide = cast(nn.Linear, self.get_submodule("classifier")).weight.dtype
        before = [branch.to(wide) for branch in (branches.whole, *branches.local)]
        after = [self.get_submodule(f"bottleneck{end}")(f) for end, f in zip(self._ends, before, strict=True)]
        logits = [self._logits(f, end) for end, f in zip(self._ends, after, strict=True)]
        whole, *local = after if self.config.neck_feat == "after" else before
        native = {CLS_ATTENTION: branches.attention.mean(dim=1)}
        if branches.local_attention is not None:
            native[LOCAL_ATTENTION] = branches.local_attention
        return HeadOutput(
            logits=logits[0],
            scores=logits[0] if head == GLOBAL else torch.stack(logits).sum(dim=0),
            features=torch.cat([whole, *(one / STRIPES for one in local)], dim=1),
            native_maps=native,
            attention_heads=branches.attention,
            taps=taps.found,
            parts={"logits": list(logits)},
        )

    def _logits(self, feature: Tensor, end: str) -> Tensor:
        """(B, D) after a neck -> (B, C) by the classifier of the same branch."""
        weight = cast(nn.Linear, self.get_submodule(f"classifier{end}")).weight
        if self.config.id_loss_type == "softmax":
            return F.linear(feature, weight)
        return self.config.cosine_scale * F.linear(F.normalize(feature, dim=1), F.normalize(weight, dim=1))

    def _trace(self, asked: TraceRequest, gradient: bool) -> tuple[HeadOutput, list[Tensor]]:
        """(B, 3, H, W) -> HeadOutput, and the (B, H, N, N) attention of every block over all patches, first to last.

        The stripes' own attention is not among them, though a score of the head `all` or of the feature passes it.
        """
        weights: list[Tensor] = []
        with torch.no_grad():
            tokens = self._embed(asked.images, asked.cameras)
        with torch.set_grad_enabled(gradient):
            tokens = self.base.run(tokens, self.config.vision_layers - 1, weights)
            block, norm = self._last
            whole = norm(block(tokens, weights)[:, 0])
            local, local_attention = self._local(tokens, Taps())
            attention = weights[-1][:, :, 0, 1:]
            branches = _Branches(whole=whole, local=local, attention=attention, local_attention=local_attention)
            return self._read_out(branches, asked.head, Taps()), weights

    def _each_block(self, asked: TraceRequest, encoded: TransReidEncoded) -> Iterator[tuple[HeadOutput, Tensor]]:
        """(B, 3, H, W) -> HeadOutput as if each block were the last, and the block's attention over all patches.

        The blocks are those of `trace`. The norm after the last one reads CLS after each: `base.norm`, with JPM `b1.1`.

        Stripes are read by b2.0 alone, which is none of these blocks. So after an earlier block `b2.1` reads CLS in
        place of each stripe. Beside the last block, b1.0, stand the model's own stripes, which do not depend on its
        weights. Both enter the features and the scores of the head `all`.
        """
        with torch.no_grad():
            embedded = self._embed(asked.images, asked.cameras)
        earlier = [self.base.block(number) for number in range(self.config.vision_layers - 1)]
        for tokens, weights in one_by_one(earlier, embedded):
            yield self._read_block(tokens, None, weights, asked.head), weights
        with torch.no_grad():
            stripes, _ = self._local(encoded.tokens, Taps())
        for tokens, weights in one_by_one([self._last[0]], encoded.tokens):
            yield self._read_block(tokens, stripes, weights, asked.head), weights

    def _read_block(self, tokens: Tensor, stripes: tuple[Tensor, ...] | None, weights: Tensor, head: str) -> HeadOutput:
        """(B, N, D) after a block, (B, D) of each stripe, and the block's (B, H, N, N) weights -> HeadOutput.

        CLS stands in for the stripes where they are None.
        """
        cls, attention = tokens[:, 0], weights[:, :, 0, 1:]
        if stripes is None:
            stripes = (self.b2[1](cls),) * STRIPES if self.config.jpm else ()
        whole = self._last[1](cls)
        branches = _Branches(whole=whole, local=stripes, attention=attention, local_attention=None)
        return self._read_out(branches, head, Taps())
