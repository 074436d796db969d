"""Which model the commands for single images run: what names it, and the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UserError

if TYPE_CHECKING:
    from promptsg_core.model import PromptSG


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, on what, how precisely, and which further prompts it is asked with."""

    checkpoint: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    model_settings: Path | None = None
    prompt_mode: str | None = None
    neck_feat: str | None = None
    prompts: tuple[str, ...] = ()
    model_set: tuple[tuple[str, str], ...] = ()

    def load(self) -> PromptSG:
        """The model. Raises UserError if no checkpoint is named, and what `load_model` raises."""
        from promptsg_core.checkpoint import load_model
        from promptsg_core.settings import read_settings
        from promptsg_core.tokenise import make_prompt, parse_prompts

        settings = read_settings(self.model_settings, [word for pair in self.model_set for word in pair])
        checkpoint = self.checkpoint or settings.weight
        if checkpoint is None:
            raise UserError("no checkpoint: give --checkpoint FILE (or TEST.WEIGHT in --model-settings)")
        prompts = {name: make_prompt(text) for name, text in parse_prompts(self.prompts).items()}
        model = load_model(
            checkpoint,
            device=self.device,
            precision=self.precision,
            settings=settings,
            prompt_mode=self.prompt_mode,
            neck_feat=self.neck_feat,
        )
        model.prompts.update(prompts)
        return model
