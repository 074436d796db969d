"""CLIP as its own code names it: the image tower is `visual`, and the text tower's parts lie beside it.

Legend: T tokens of a text up to EOT, D channels, E joint width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from promptsg_core.config import ClipConfig
from promptsg_core.errors import ModelError
from promptsg_core.prompts import Prompt
from promptsg_core.towers.text import TextTower, check_length
from promptsg_core.towers.vision import VisionTower


class ClipTowers(TextTower):
    """Both towers, and the embedding of the whole vocabulary, so that any text can be read."""

    def __init__(self, config: ClipConfig, vocabulary: int) -> None:
        super().__init__(config)
        self.visual = VisionTower(config)
        self.token_embedding = nn.Embedding(vocabulary, config.text_width)
        self.longest = config.context_length

    def check(self, prompt: Prompt) -> None:
        """Raises ModelError for a text that is too long, has an X, or has words that the embedding does not hold."""
        if prompt.slot is not None:
            raise ModelError(
                f"the prompt {prompt.text!r} has an X, which stands for a person's pseudo word in PromptSG: this "
                "family has none"
            )
        check_length(prompt, self.longest)
        if max(prompt.tokens) >= self.token_embedding.num_embeddings:
            raise ModelError(
                f"the text {prompt.text!r} has token {max(prompt.tokens)}, but this checkpoint's token embedding has "
                f"{self.token_embedding.num_embeddings} rows"
            )

    @torch.no_grad()
    def read(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        """(T, E) for each text: its projected tokens, EOT last."""
        if not prompts:
            return []
        lengths = [len(prompt.tokens) for prompt in prompts]
        padded = [[*prompt.tokens, *[0] * (max(lengths) - len(prompt.tokens))] for prompt in prompts]
        with torch.inference_mode(False):  # what is read may be kept, and be part of a gradient later
            ids = torch.tensor(padded, device=self.token_embedding.weight.device)
            tokens = self.all_tokens(self.token_embedding(ids))
        return [tokens[row, :length] for row, length in enumerate(lengths)]

    @property
    def text_parameters(self) -> list[Tensor]:
        """What texts are read with."""
        return [tensor for name, tensor in self.named_parameters() if not name.startswith("visual.")]
