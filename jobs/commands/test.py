"""`promptsg test`: features and attention, retrieval, and pictures of the first images, in one call."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from jobs.cli import repeated, run_steps
from jobs.commands.options import (
    PromptsgCommand,
    echo,
    head_and_camera_options,
    image_size_option,
    opening,
    option_with_default,
    prompt_option,
    target_option,
    weights_key_option,
)
from jobs.errors import EXIT_ERROR
from jobs.mining.early.names import refuse_unknown_maps
from jobs.phrases import counted
from jobs.progress import loading_torch
from jobs.reading import read_json_object
from jobs.shards.urls import expand_shards
from promptsg_core.settings import read_settings


@click.command(name="test", cls=PromptsgCommand)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The checkpoint (.pth or .safetensors).")
@weights_key_option
@click.option("--shards", multiple=True, required=True, help="Shards of the query and gallery splits; repeatable.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@option_with_default("--visualize", type=click.IntRange(0), default=0, help="Draw the first N images.")
@click.option("--map", "maps", multiple=True, help="A map to mine and to draw; repeatable.  [default: the model's "
              "own attention]")  # fmt: skip
@target_option
@prompt_option
@head_and_camera_options
@click.option("--rerank", is_flag=True, help="Evaluate with k-reciprocal re-ranking.")
@click.option("--model-settings", type=click.Path(path_type=Path), help="The training code's YAML.")
@image_size_option
@click.argument("overrides", nargs=-1, metavar="[KEY VALUE]...")
def command(
    checkpoint: Path | None,
    weights_key: str | None,
    shards: tuple[str, ...],
    output: Path,
    visualize: int,
    maps: tuple[str, ...],
    rerank: bool,
    model_settings: Path | None,
    image_size: str | None,
    overrides: tuple[str, ...],
    prompts: tuple[str, ...],
    **of_mine: object,
) -> None:
    """Mine features and maps of the shards, evaluate retrieval (mAP, CMC), and draw the first images.

    \b
    Example:
      promptsg test --checkpoint ViT-B-16_60.pth --shards 'shards/query-*.tar' --shards 'shards/gallery-*.tar' \\
          --visualize 50 --output DIR

    It runs `mine`, `evaluate` and `render`, which have more options. Exit status 1 where no query could be scored.
    """
    refuse_unknown_maps(maps)
    expand_shards(shards)
    maps = maps or _own_map(checkpoint, model_settings, overrides, weights_key)
    mine = ["mine", *repeated("--shards", shards), *repeated("--maps", maps)]
    mine += ["--checkpoint", checkpoint] if checkpoint is not None else []
    mine += ["--weights-key", weights_key] if weights_key is not None else []
    mine += ["--model-settings", model_settings] if model_settings is not None else []
    mine += ["--image-size", image_size] if image_size is not None else []
    mine += repeated("--prompt", prompts)
    for name, value in of_mine.items():  # --target, and what heads and cameras need
        mine += [f"--{name.replace('_', '-')}", value] if value is not None else []
    evaluate = ["evaluate", output, *(["--rerank"] if rerank else [])]
    steps = [(*mine, "--output", output, *overrides), tuple(evaluate)]
    if visualize:
        pictures = output / "attention_visualizations"
        look = ("--style", "panel", "--limit", visualize, *repeated("--map", maps), *opening(shards))
        steps.append(("render", output, *look, "--output", pictures))
    status = run_steps(*steps)
    if not status and (nothing := _nothing_scored(output)):
        echo(f"promptsg: {nothing}", err=True)
        status = EXIT_ERROR
    sys.exit(status)


def _nothing_scored(run: Path) -> str | None:
    """Why there are no scores, where no query has a match in the gallery; None where there are scores."""
    metrics = read_json_object(run / "evaluation" / "metrics.json", "the scores of a run", "run the same command again")
    if metrics["queries"]:
        return None
    alone = counted(int(str(metrics["queries_without_match"])), "query has", "queries have")
    return (
        f"no query was scored: {alone} no match in the gallery. Give --shards with the splits query and "
        "gallery of the same persons, seen by different cameras"
    )


def _own_map(
    checkpoint: Path | None, settings: Path | None, overrides: tuple[str, ...], weights_key: str | None
) -> tuple[str, ...]:
    """The map that a model of the checkpoint's family computes itself; nothing where no checkpoint is named."""
    stated = read_settings(settings, overrides).weight if checkpoint is None else None
    path = checkpoint or (None if stated is None else Path(stated))
    if path is None or not path.is_file():  # `mine` says what is wrong
        return ()
    with loading_torch():
        from promptsg_core.checkpoint import recognise_file

    return recognise_file(path, weights_key).family.config.default_maps[:1]
