"""The inversion network and the Multimodal Interaction Module (MIM): text-guided weights on patch tokens.

Legend: B batch, M patches, N = 1+M tokens (CLS first), D channels, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.taps import Taps
from promptsg_core.towers.attention import Record, attend, attend_once, merge_heads, scores_of, split_heads
from promptsg_core.towers.kept import Kept
from promptsg_core.towers.linear import Linear
from promptsg_core.towers.transformer import KeptVectors, add_mlp


class InversionNetwork(nn.Module):
    """The image's global feature to the pseudo word S* that stands for the person in the prompt."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        first, second = config.inversion_widths
        self.fc1 = nn.Linear(config.embed_dim, first)
        self.fc2 = nn.Linear(first, second)
        self.fc3 = nn.Linear(second, config.text_width)
        self.bn = nn.BatchNorm1d(config.text_width, affine=config.inversion_affine)

    def forward(self, v: Tensor) -> Tensor:
        """(B, embed_dim) -> (B, text_width)."""
        found: Tensor = self.bn(self.fc3(F.relu(self.fc2(F.relu(self.fc1(v))))))
        return found


class CrossAttention(nn.Module):
    """Attention of the text to the patches. The model discards its output: only the weights are computed."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.mim_heads
        self.q_proj = nn.Linear(config.embed_dim, config.embed_dim)
        self.k_proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, text: Tensor, patches: Tensor) -> Tensor:
        """(B or 1, D) text and (B, M, D) patches -> (B, H, M) weights, each head summing to 1, float32 or wider."""
        q = torch.unflatten(self.q_proj(text), -1, (self.heads, -1))
        scores = scores_of(q * q.shape[-1] ** -0.5, patches, self.k_proj.weight)
        # Low precision, which autocast may have chosen, would round weights near 1/M to a few steps. The map itself is
        # a result, so it is float32.
        return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1)


class PostAttention(nn.Module):
    """Self-attention of a post block; parameters are named as in timm's ViT."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=bias)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, record: Record = None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, dim=-1))
        found: Tensor = self.proj(merge_heads(attend(q, k, v, record=record)))
        return found

    def cls_only(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, D): row 0 of `forward`."""
        gathered, _ = attend_once(x, self.qkv.weight, self.qkv.bias, self.heads)
        found: Tensor = self.proj(gathered)
        return found


class PostMlp(nn.Module):
    """Linear, QuickGELU, linear, four times as wide inside, with the norm before and the sum after."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self._scaled: KeptVectors = Kept()

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """(..., D) -> (..., D): x + the MLP of norm(x)."""
        return add_mlp(x, norm, self.fc1, self.fc2, self._scaled)


class PostBlock(nn.Module):
    """A pre-norm block over [v, re-weighted patches]."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = PostAttention(width, heads, bias)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = PostMlp(width)

    def forward(self, x: Tensor, record: Record = None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attn(self.norm1(x), record)
        found: Tensor = self.mlp(x, self.norm2)
        return found

    def cls_only(self, x: Tensor, normed: Tensor) -> Tensor:
        """(B, N, D) tokens and `norm1` of them -> (B, D): row 0 of `forward`, up to rounding."""
        cls = x[:, 0] + self.attn.cls_only(normed)
        found: Tensor = self.mlp(cls, self.norm2)
        return found


@dataclass(frozen=True, kw_only=True)
class MimOutput:
    """What the MIM gives.

    v_final (B, D). attention_heads (B, H, M), and their mean, attention (B, M). cls_states: CLS (B, D) after each
    block. tokens: all output tokens (B, N, D), only where they are wanted.
    """

    v_final: Tensor
    attention_heads: Tensor
    attention: Tensor
    cls_states: list[Tensor]
    tokens: Tensor | None


class MultimodalInteraction(nn.Module):
    """Re-weights patch tokens by text-guided attention, then lets CLS read them through the post blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reweight = config.reweight
        self.q_ln = nn.LayerNorm(config.embed_dim)
        self.kv_ln = nn.LayerNorm(config.embed_dim)
        self.cross_attn = CrossAttention(config)
        blocks = [PostBlock(config.embed_dim, config.mim_heads, config.mim_qkv_bias) for _ in range(config.mim_layers)]
        self.post_blocks = nn.ModuleList(blocks)

    @property
    def blocks(self) -> list[PostBlock]:
        """The post blocks, first to last."""
        return [block for block in self.post_blocks if isinstance(block, PostBlock)]

    def attend(self, text: Tensor, patches: Tensor) -> Tensor:
        """(B or 1, D) text and (B, M, D) projected patches -> (B, H, M) weights."""
        weights: Tensor = self.cross_attn(self.q_ln(text), self.kv_ln(patches))
        return weights

    def weigh(self, patches: Tensor, attention: Tensor) -> Tensor:
        """(B, M, D) patches and (B, M) attention -> (B, M, D): the patches times what the reweight mode makes of it."""
        weights = attention.unsqueeze(-1)
        if self.reweight == "mul":
            factor = weights
        elif self.reweight == "residual":
            factor = 1 + weights * patches.shape[1]
        else:
            factor = weights * patches.shape[1]
        return patches * factor.to(patches.dtype)

    def forward(
        self,
        text: Tensor,
        v: Tensor,
        patches: Tensor,
        taps: Taps,
        *,
        all_tokens: bool = False,
        record: Record = None,
    ) -> MimOutput:
        """(B or 1, D) text, (B, D) v and (B, M, D) patches -> MimOutput.

        Only CLS leaves the last block, so the other rows are computed only for `all_tokens`, and without gradient: no
        score depends on them. With `record`, every block runs whole and adds its self-attention weights to it.
        """
        heads = self.attend(text, patches)
        attention = heads.mean(dim=1)
        x = torch.cat([v.unsqueeze(1), self.weigh(patches, attention)], dim=1)
        *blocks, last = self.blocks
        cls_states = []
        for block in blocks:
            x = block(x, record)
            cls_states.append(x[:, 0])
        tokens = None
        if record is not None:
            v_final = last(x, record)[:, 0]
        else:
            v_final = last.cls_only(x, taps.open("mim", last.norm1(x)))
        if all_tokens:
            with torch.no_grad():
                tokens = last(x)
        cls_states.append(v_final)
        return MimOutput(
            v_final=v_final, attention_heads=heads, attention=attention, cls_states=cls_states, tokens=tokens
        )
