"""The options of commands that run a model on single images, and the model that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jobs.errors import UserError

if TYPE_CHECKING:
    from promptsg_core.model import PromptSG

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, on what, how precisely, and which further prompts it is asked with."""

    checkpoint: Path | None
    device: str
    precision: str
    model_settings: Path | None
    prompt_mode: str | None
    neck_feat: str | None
    prompts: tuple[str, ...]
    model_set: tuple[tuple[str, str], ...]

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


def model_options(command: F) -> F:
    """Adds the options; the command receives them as keywords named after ModelOptions' fields."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_model_options(options: dict[str, Any]) -> ModelOptions:
    """Removes the model's options from a command's keywords."""
    return ModelOptions(**{name: options.pop(name) for name in ModelOptions.__dataclass_fields__})


_OPTIONS = (
    click.option("--checkpoint", type=click.Path(path_type=Path), help="The PromptSG checkpoint."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option("--precision", default="auto", show_default=True, help="auto, bf16, fp16 or fp32."),
    click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML."),
    click.option("--model-set", type=(str, str), multiple=True, metavar="KEY VALUE", help="One of its settings."),
    click.option("--prompt-mode", help="composed (default) or simplified."),
    click.option("--neck-feat", help="before (default) or after."),
    click.option("--prompt", "prompts", multiple=True, metavar="[NAME=]TEXT", help="Ask the MIM with your own text."),
)
