"""CLIP's text tower for one prompt template: nothing after EOT is computed, and nothing before S* twice.

The tower is causal, so tokens after EOT do not change the feature at EOT: the template's 7 or 8 tokens give the result
of the padded 77. Tokens before S* are the same for every image, so their keys and values are computed once.

Legend: B batch, T tokens, P tokens of the constant prefix, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptsg_core.config import ClipConfig
from promptsg_core.errors import ModelError
from promptsg_core.prompts import Prompt
from promptsg_core.towers.attention import merge_heads
from promptsg_core.towers.kept import Kept
from promptsg_core.towers.transformer import ClipTransformer

_MASK_ROWS = 16  # numbers: a fused kernel copies a mask whose rows do not start at multiples of these


@dataclass(frozen=True, kw_only=True)
class ReadPrefix:
    """What the tokens after a constant start need of it, computed once.

    keys_values: of each block (1, P, 2D), a token's key and value side by side. mask (T, P + T): 0 where one of the T
    further tokens sees a token, else minus infinity.
    """

    keys_values: tuple[Tensor, ...]
    mask: Tensor


class TextTower(nn.Module):
    """Token embeddings to one feature per prompt."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width = config.text_width
        self.positional_embedding = nn.Parameter(torch.randn(config.context_length, width) * 0.01)
        self.transformer = ClipTransformer(width, config.text_layers, config.text_heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, config.embed_dim) * width**-0.5)

    def forward(self, embeddings: Tensor, end: int) -> Tensor:
        """(B, T, D) token embeddings -> (B, E): the projected feature at position `end` (EOT)."""
        x = embeddings + self.positional_embedding[: embeddings.shape[1]]
        x = self.transformer(x, causal=True)
        found: Tensor = self.ln_final(x[:, end]) @ self.text_projection
        return found

    def all_tokens(self, embeddings: Tensor) -> Tensor:
        """(B, T, D) token embeddings -> (B, T, E): every token projected. Padding after EOT changes none before it."""
        x = embeddings + self.positional_embedding[: embeddings.shape[1]]
        found: Tensor = self.ln_final(self.transformer(x, causal=True)) @ self.text_projection
        return found

    def prefix(self, embeddings: Tensor, further: int) -> ReadPrefix:
        """(1, P, D) embeddings of the constant start, which `further` tokens follow -> what these need of it."""
        x = embeddings + self.positional_embedding[: embeddings.shape[1]]
        found = []
        for block in self.transformer.blocks:
            q, k, v = block.attn.project(block.ln_1(x))
            found.append(torch.cat([merge_heads(k), merge_heads(v)], dim=2))
            x = x + block.attn.out_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
            x = block.mlp(x, block.ln_2)
        return ReadPrefix(keys_values=tuple(found), mask=_causal_mask(x, further))

    def continue_from(self, prefix: ReadPrefix, embeddings: Tensor) -> Tensor:
        """(B, T, D) embeddings of the tokens that follow the prefix, EOT last -> (B, E), as `forward` gives."""
        count, mask = embeddings.shape[1], prefix.mask
        start = mask.shape[1] - count
        x = embeddings + self.positional_embedding[start : start + count]
        *blocks, last = zip(self.transformer.blocks, prefix.keys_values, strict=True)
        for block, before in blocks:
            q, k, v = block.attn.project_after(before, block.ln_1(x))
            x = x + block.attn.out_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))
            x = block.mlp(x, block.ln_2)
        block, before = last  # only the feature at EOT leaves the tower
        q, k, v = block.attn.project_after(before, block.ln_1(x))
        gathered = merge_heads(F.scaled_dot_product_attention(q[:, :, -1:], k, v, attn_mask=mask[-1:]))
        x = block.mlp(x[:, -1:] + block.attn.out_proj(gathered), block.ln_2)
        found: Tensor = self.ln_final(x[:, -1]) @ self.text_projection
        return found


def _causal_mask(prefix: Tensor, further: int) -> Tensor:
    """(1, P, D) -> (T, P + T) of the same type, for T further tokens."""
    start = prefix.shape[1]
    columns = start + further
    rows = prefix.new_zeros(further, columns + -columns % _MASK_ROWS)[:, :columns]
    seen = torch.ones(further, columns, dtype=torch.bool, device=prefix.device).tril(start)
    return rows.masked_fill_(~seen, -torch.inf)


@dataclass(frozen=True, kw_only=True)
class _Around:
    """Of a template with S*: what the tokens before it give, and the (1, T, D) embeddings of those that follow it."""

    prefix: ReadPrefix
    after: Tensor


def check_length(prompt: Prompt, positions: int) -> None:
    """Raises ModelError for a prompt that is too long for a text tower of so many positions."""
    if len(prompt.tokens) > positions:
        raise ModelError(
            f"the prompt {prompt.text!r} has {len(prompt.tokens)} tokens, but this checkpoint's text tower has "
            f"{positions} positions"
        )


class PromptComposer(nn.Module):
    """Turns pseudo words into text features through a text tower, with the template's constant part cached.

    The tower is given at each call and is not a submodule, since it has a name of its own in the checkpoint.
    """

    def __init__(
        self, vocab_size: int, width: int, context_length: int, token_rows: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        # The row of each token, if the embedding holds only some.
        self._row_of = None if token_rows is None else {token: row for row, token in enumerate(token_rows)}
        self._longest = context_length
        self._constants: dict[Prompt, Kept[Tensor | _Around]] = {}
        self._tokens: dict[tuple[Prompt, torch.device], Tensor] = {}

    def embed(self, prompt: Prompt, pseudo_words: Tensor | None) -> Tensor:
        """(B, D) pseudo words -> (B, T, D); (1, T, D) for a template without S*.

        Raises ModelError for a prompt with words that a trimmed embedding does not hold.
        """
        embeddings: Tensor = self.token_embedding(self._ids(prompt)).unsqueeze(0)
        if prompt.slot is None or pseudo_words is None:
            return embeddings
        before, after = embeddings[:, : prompt.slot], embeddings[:, prompt.slot + 1 :]
        rows = len(pseudo_words)
        words = pseudo_words.to(embeddings.dtype).unsqueeze(1)
        return torch.cat([before.expand(rows, -1, -1), words, after.expand(rows, -1, -1)], dim=1)

    def _ids(self, prompt: Prompt) -> Tensor:
        """(T,) the embedding's rows of a prompt, copied to the device once."""
        device = self.token_embedding.weight.device
        if (prompt, device) not in self._tokens:
            with torch.inference_mode(False):
                self._tokens[prompt, device] = torch.tensor(self._rows(prompt), device=device)
        return self._tokens[prompt, device]

    def check(self, prompt: Prompt) -> None:
        """Raises ModelError for a prompt that is too long or has words that the embedding does not hold."""
        check_length(prompt, self._longest)
        self._rows(prompt)

    def _rows(self, prompt: Prompt) -> tuple[int, ...]:
        if self._row_of is None:
            if max(prompt.tokens) >= self.token_embedding.num_embeddings:
                raise ModelError(
                    f"the prompt {prompt.text!r} has token {max(prompt.tokens)}, but this checkpoint's token embedding "
                    f"has {self.token_embedding.num_embeddings} rows and does not say which tokens they are"
                )
            return prompt.tokens
        if missing := [token for token in prompt.tokens if token not in self._row_of]:
            raise ModelError(
                f"the prompt {prompt.text!r} has token {missing[0]}, but this checkpoint keeps only the "
                f"{len(self._row_of)} tokens of its own prompts; other texts need one with CLIP's whole vocabulary"
            )
        return tuple(self._row_of[token] for token in prompt.tokens)

    def forward(self, tower: TextTower, prompt: Prompt, pseudo_words: Tensor | None) -> Tensor:
        """Text features (B, E), or (1, E) for a template without S*.

        With gradients on, everything is computed each time. Without, the constant part comes from the cache.
        """
        end = len(prompt.tokens) - 1
        if torch.is_grad_enabled():
            live: Tensor = tower(self.embed(prompt, pseudo_words), end)
            return live
        parameters = [self.token_embedding.weight, *tower.parameters()]
        kept = self._constants.setdefault(prompt, Kept())
        constant = kept.of(parameters, lambda: self._constant(tower, prompt))
        if isinstance(constant, Tensor):
            return constant
        assert pseudo_words is not None
        words = pseudo_words.to(constant.after.dtype).unsqueeze(1)
        further = torch.cat([words, constant.after.expand(len(words), -1, -1)], dim=1)
        return tower.continue_from(constant.prefix, further)

    def _constant(self, tower: TextTower, prompt: Prompt) -> Tensor | _Around:
        """What is the same for every image: the whole feature (1, E) for a template without S*."""
        embeddings = self.embed(prompt, None)
        if prompt.slot is None:
            feature: Tensor = tower(embeddings, len(prompt.tokens) - 1)
            return feature
        before, after = embeddings[:, : prompt.slot], embeddings[:, prompt.slot + 1 :]
        return _Around(prefix=tower.prefix(before, 1 + after.shape[1]), after=after)
