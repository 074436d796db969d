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
from promptsg_core.towers.transformer import ClipTransformer

KeysValues = list[tuple[Tensor, Tensor]]


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

    def prefix(self, embeddings: Tensor) -> KeysValues:
        """(1, P, D) embeddings of the constant start -> each block's keys and values, (1, H, P, D/H)."""
        x = embeddings + self.positional_embedding[: embeddings.shape[1]]
        cached = []
        for block in self.transformer.blocks:
            q, k, v = block.attn.project(block.ln_1(x))
            cached.append((k, v))
            x = x + block.attn.out_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
            x = block.mlp(x, block.ln_2)
        return cached

    def continue_from(self, cached: KeysValues, embeddings: Tensor) -> Tensor:
        """(B, T, D) embeddings of the tokens that follow the prefix, EOT last -> (B, E), as `forward` gives."""
        start, count = cached[0][0].shape[2], embeddings.shape[1]
        x = embeddings + self.positional_embedding[start : start + count]
        mask = torch.ones(count, start + count, dtype=torch.bool, device=x.device).tril(start)
        last = len(cached) - 1
        for number, (block, (k_prefix, v_prefix)) in enumerate(zip(self.transformer.blocks, cached, strict=True)):
            q, k, v = block.attn.project(block.ln_1(x))
            k = torch.cat([k_prefix.expand(len(x), -1, -1, -1), k], dim=2)
            v = torch.cat([v_prefix.expand(len(x), -1, -1, -1), v], dim=2)
            if number == last:  # only the feature at EOT leaves the tower
                x, q, mask = x[:, -1:], q[:, :, -1:], mask[-1:]
            x = x + block.attn.out_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))
            x = block.mlp(x, block.ln_2)
        found: Tensor = self.ln_final(x[:, -1]) @ self.text_projection
        return found


@dataclass(frozen=True, kw_only=True)
class _Constant:
    """The part of a text feature that is the same for every image.

    `state` holds the parameters' addresses and versions: it differs after weights were moved, converted or edited.
    """

    state: tuple[int, ...]
    value: KeysValues | Tensor


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
        self._cache: dict[Prompt, _Constant] = {}

    def embed(self, prompt: Prompt, pseudo_words: Tensor | None) -> Tensor:
        """(B, D) pseudo words -> (B, T, D); (1, T, D) for a template without S*.

        Raises ModelError for a prompt with words that a trimmed embedding does not hold.
        """
        tokens = torch.tensor(self._rows(prompt), device=self.token_embedding.weight.device)
        embeddings: Tensor = self.token_embedding(tokens).unsqueeze(0)
        if prompt.slot is None or pseudo_words is None:
            return embeddings
        before, after = embeddings[:, : prompt.slot], embeddings[:, prompt.slot + 1 :]
        rows = len(pseudo_words)
        words = pseudo_words.to(embeddings.dtype).unsqueeze(1)
        return torch.cat([before.expand(rows, -1, -1), words, after.expand(rows, -1, -1)], dim=1)

    def check(self, prompt: Prompt) -> None:
        """Raises ModelError for a prompt that is too long or has words that the embedding does not hold."""
        if len(prompt.tokens) > self._longest:
            raise ModelError(
                f"the prompt {prompt.text!r} has {len(prompt.tokens)} tokens, but this checkpoint's text tower has "
                f"{self._longest} positions"
            )
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
        constant = self._constant(tower, prompt)
        if isinstance(constant, Tensor):
            return constant
        suffix = self.embed(prompt, pseudo_words)[:, prompt.slot :]
        return tower.continue_from(constant, suffix)

    def _constant(self, tower: TextTower, prompt: Prompt) -> KeysValues | Tensor:
        """The cached part of a prompt: the whole feature without S*, else the prefix's keys and values."""
        parameters = [self.token_embedding.weight, *tower.parameters()]
        state = tuple(n for p in parameters for n in (p.data_ptr(), p._version))
        known = self._cache.get(prompt)
        if known is not None and known.state == state:
            return known.value
        embeddings = self.embed(prompt, None)
        value: KeysValues | Tensor
        if prompt.slot is None:
            value = tower(embeddings, len(prompt.tokens) - 1)
        else:
            value = tower.prefix(embeddings[:, : prompt.slot])
        self._cache[prompt] = _Constant(state=state, value=value)
        return value
