"""The forward pass that maps are measured against: PromptSG as it is written down, and the same with our kernels.

Nothing is saved: 77 text tokens, `ln_post` and the projection of every token, values and output projection of the
cross-attention, every row of every post block, both heads. No maps, no gradient.

Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.towers.transformer import merge_heads, split_heads

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def _copy(target: Tensor, source: Tensor) -> None:
    with torch.no_grad():
        target.copy_(source)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), as CLIP has it."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * torch.sigmoid(1.702 * x)


class StockBlock(nn.Module):
    """CLIP's ResidualAttentionBlock on (N, B, D), with torch's MultiheadAttention."""

    def __init__(self, width: int, heads: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width))
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """(N, B, D) -> (N, B, D)."""
        y = self.ln_1(x)
        mask = None if self.mask is None else self.mask.to(y.dtype)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))

    def take(self, norms: tuple[nn.Module, nn.Module], qkv: tuple[Tensor, Tensor | None], layers: list) -> StockBlock:
        """Copies a block of ours: its norms, fused projection, and [output projection, first and second linear]."""
        self.ln_1.load_state_dict(norms[0].state_dict())
        self.ln_2.load_state_dict(norms[1].state_dict())
        _copy(self.attn.in_proj_weight, qkv[0])
        _copy(self.attn.in_proj_bias, torch.zeros_like(self.attn.in_proj_bias) if qkv[1] is None else qkv[1])
        for mine, theirs in zip((self.attn.out_proj, self.mlp[0], self.mlp[2]), layers, strict=True):
            mine.load_state_dict(theirs.state_dict())
        return self


def _clip_blocks(ours: nn.Module, width: int, heads: int, mask: Tensor | None = None) -> nn.Sequential:
    return nn.Sequential(
        *(
            StockBlock(width, heads, mask).take(
                (block.ln_1, block.ln_2),
                (block.attn.in_proj_weight, block.attn.in_proj_bias),
                [block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj],
            )
            for block in ours.blocks
        )
    )


class StockReference(nn.Module):
    """The documented forward pass with torch.nn's own modules; float32 weights, autocast for low precision."""

    def __init__(self, model: PromptSG, precision: torch.dtype) -> None:
        super().__init__()
        config, self.precision = model.config, precision
        self.config, self.tower, self.text = config, model.image_encoder, model.text_encoder
        self.inversion, self.mim = model.inversion, model.mim
        self.bottleneck, self.bottleneck_proj = model.bottleneck, model.bottleneck_proj
        self.classifier, self.classifier_proj = model.classifier, model.classifier_proj
        self.token_embedding = model.prompt_composer.token_embedding
        self.blocks = _clip_blocks(self.tower.transformer, config.vision_width, config.vision_heads)
        length = config.context_length
        causal = torch.full((length, length), -torch.inf).triu(1)
        self.text_blocks = _clip_blocks(self.text.transformer, config.text_width, config.text_heads, causal)
        self.cross_attn = nn.MultiheadAttention(config.embed_dim, config.mim_heads, batch_first=True)
        ours = self.mim.cross_attn
        for row, projection in enumerate((ours.q_proj, ours.k_proj)):
            part = slice(row * config.embed_dim, (row + 1) * config.embed_dim)
            _copy(self.cross_attn.in_proj_weight[part], projection.weight)
            _copy(self.cross_attn.in_proj_bias[part], projection.bias)
        self.post_blocks = nn.Sequential(
            *(
                StockBlock(config.embed_dim, config.mim_heads).take(
                    (block.norm1, block.norm2),
                    (block.attn.qkv.weight, block.attn.qkv.bias),
                    [block.attn.proj, block.mlp.fc1, block.mlp.fc2],
                )
                for block in self.mim.blocks
            )
        )

    @torch.no_grad()
    def forward(self, images: Tensor) -> Outputs:
        """(B, 3, H, W) normalised -> logits of the CLS and the MIM head, features (B, D+E), attention (B, M)."""
        return self.trace(images)

    def trace(self, images: Tensor) -> Outputs:
        """The same, with gradients where they are on."""
        low = self.precision != torch.float32
        with torch.autocast(images.device.type, self.precision) if low else contextlib.nullcontext():
            return self._forward(images)

    def _forward(self, images: Tensor) -> Outputs:
        tower = self.tower
        x = tower.conv1(images).flatten(2).transpose(1, 2)
        cls = tower.class_embedding.to(x.dtype) + torch.zeros(len(x), 1, x.shape[-1], dtype=x.dtype, device=x.device)
        x = tower.ln_pre(torch.cat([cls, x], dim=1) + tower.positional_embedding.to(x.dtype))
        x = self.blocks(x.permute(1, 0, 2)).permute(1, 0, 2)
        post = tower.ln_post(x)
        projected = post @ tower.proj
        v, patches = projected[:, 0], projected[:, 1:]
        text = self._text(v)
        query, keys = self.mim.q_ln(text).unsqueeze(1), self.mim.kv_ln(patches)
        _, weights = self.cross_attn(query, keys, keys)  # its output is dropped, as the model drops it
        weighed = self.mim.weigh(patches, weights[:, 0])
        tokens = torch.cat([v.unsqueeze(1), weighed], dim=1)
        v_final = self.post_blocks(tokens.permute(1, 0, 2)).permute(1, 0, 2)[:, 0]
        return (*_heads(self, post[:, 0], v_final), weights[:, 0])

    def _text(self, v: Tensor) -> Tensor:
        """(B, E) -> (B, E), through all 77 positions."""
        x, end = _padded_prompt(self, self.inversion(v))
        x = (x + self.text.positional_embedding).permute(1, 0, 2)
        x = self.text.ln_final(self.text_blocks(x).permute(1, 0, 2))
        return x[:, end] @ self.text.text_projection


class TunedReference(nn.Module):
    """The same computation on our converted weights with fused attention: what is left is what it computes."""

    def __init__(self, model: PromptSG) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.token_embedding = model.prompt_composer.token_embedding
        self.bottleneck, self.bottleneck_proj = model.bottleneck, model.bottleneck_proj
        self.classifier, self.classifier_proj = model.classifier, model.classifier_proj
        width, like = model.config.embed_dim, model.mim.cross_attn.k_proj.weight
        self.v_proj = nn.Linear(width, width, device=like.device, dtype=like.dtype)
        self.out_proj = nn.Linear(width, width, device=like.device, dtype=like.dtype)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Outputs:
        """(B, 3, H, W) normalised -> logits of the CLS and the MIM head, features (B, D+E), attention (B, M)."""
        model = self.model
        post = model.image_encoder.ln_post(model.image_encoder(model.prepare(images)))
        projected = post @ model.image_encoder.proj
        v, patches = projected[:, 0], projected[:, 1:]
        words = model.inversion(v.to(model.inversion.fc1.weight.dtype))
        prompt, end = _padded_prompt(self, words.to(model.dtype))
        text = model.text_encoder(prompt, end)
        keys = model.mim.kv_ln(patches)
        cross, heads = model.mim.cross_attn, self.config.mim_heads
        q, k, values = (split_heads(t, heads) for t in (
            cross.q_proj(model.mim.q_ln(text)).unsqueeze(1), cross.k_proj(keys), self.v_proj(keys)))  # fmt: skip
        scores = (q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)).squeeze(2)
        weights = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1)
        self.out_proj(merge_heads(weights.to(values.dtype).unsqueeze(2) @ values))  # dropped, as the model drops it
        attention = weights.mean(dim=1)
        x = torch.cat([v.unsqueeze(1), model.mim.weigh(patches, attention)], dim=1)
        for block in model.mim.blocks:
            x = block(x)
        return (*_heads(self, post[:, 0], x[:, 0]), attention)


def _padded_prompt(reference: StockReference | TunedReference, words: Tensor) -> tuple[Tensor, int]:
    """(B, D) pseudo words -> (B, 77, D) embeddings of the padded prompt, and the position of its EOT."""
    prompt, embedding = reference.config.prompt, reference.token_embedding
    padding = (0,) * (reference.config.context_length - len(prompt.tokens))
    x = embedding(torch.tensor(prompt.tokens + padding, device=words.device)).to(words.dtype).expand(len(words), -1, -1)
    if prompt.slot is not None:
        x = torch.cat([x[:, : prompt.slot], words.unsqueeze(1), x[:, prompt.slot + 1 :]], dim=1)
    return x, len(prompt.tokens) - 1


def _heads(
    reference: StockReference | TunedReference, cls_final: Tensor, v_final: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = reference.classifier.weight.dtype
    feat, feat_proj = reference.bottleneck(cls_final.to(dtype)), reference.bottleneck_proj(v_final.to(dtype))
    parts = (feat, feat_proj) if reference.config.neck_feat == "after" else (cls_final, v_final)
    return F.linear(feat, reference.classifier.weight), reference.classifier_proj(feat_proj), torch.cat(parts, dim=1)
