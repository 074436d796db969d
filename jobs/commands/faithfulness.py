"""`promptsg faithfulness`: are the maps faithful to the score, and do they depend on what was learned?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from jobs.commands.options import (
    HEADS_HELP,
    PRECISION_HELP,
    PromptsgCommand,
    allow_pipes_option,
    allow_remote_option,
    device_option,
    echo,
    evaluation_option,
    json_option,
    option_group,
    option_with_default,
    run_argument,
    selection_options,
    shards_root_option,
)
from jobs.faithfulness.early import refuse_wrong_request
from jobs.faithfulness.plan import DEFAULT_LIMIT, FaithfulnessConfig
from jobs.faithfulness.summary import FaithfulnessSummary, MeanInterval
from jobs.phrases import counted, json_text
from jobs.progress import loading_torch
from jobs.runs.query import RowSelection

# All that a measurement is requested to do, but for the images: `config`, a FaithfulnessConfig.
_config_options = option_group(
    "config",
    FaithfulnessConfig,
    run_argument,
    click.option(
        "--checkpoint", type=click.Path(path_type=Path), required=True, help="The checkpoint that RUN was mined with."
    ),
    click.option("--weights-key", help="Which state dict of the checkpoint to take.  [default: as RUN was mined]"),
    evaluation_option,
    click.option(
        "--map",
        "maps",
        multiple=True,
        help=f"A stored map; repeatable. {HEADS_HELP} These need --no-sanity.  [default: all]",
    ),
    option_with_default(
        "--steps",
        type=click.IntRange(1),
        default=FaithfulnessConfig.steps,
        help="The steps from no removed patch to all removed.",
    ),
    option_with_default(
        "--random", type=click.IntRange(1), default=FaithfulnessConfig.random, help="Random orders for each image."
    ),
    click.option(
        "--sigma",
        type=click.FloatRange(0.1, 1000),
        help="The blur's standard deviation in pixels of the "
        "model's input.  [default: half a patch: 1 % of a pattern that repeats within it remains]",
    ),
    option_with_default(
        "--sanity/--no-sanity", default=FaithfulnessConfig.sanity, help="Compare with re-initialised models."
    ),
    option_with_default(
        "--sanity-images",
        type=click.IntRange(1),
        default=FaithfulnessConfig.sanity_images,
        help="How many images to compare with the re-initialised models.",
    ),
    option_with_default(
        "--resamples",
        type=click.IntRange(100),
        default=FaithfulnessConfig.resamples,
        help="How often identities are resampled, for the intervals.",
    ),
    option_with_default(
        "--batch-size", type=click.IntRange(1), default=FaithfulnessConfig.batch_size, help="Images in one pass."
    ),
    device_option,
    click.option("--precision", help=f"{PRECISION_HELP}  [default: as RUN was mined]"),
    click.option(
        "--label-map", type=click.Path(path_type=Path), help="The file that RUN was mined with, if any; not for auto."
    ),
    click.option(
        "--reference", type=click.Path(path_type=Path), help="The run that RUN's target similarity refers to."
    ),
    shards_root_option,
    allow_remote_option,
    allow_pipes_option,
    click.option("--any-checkpoint", is_flag=True, help="Accept another checkpoint than RUN's."),
    click.option(
        "--output", type=click.Path(path_type=Path), help="The folder for the results.  [default: RUN/faithfulness]"
    ),
)


@click.command(name="faithfulness", cls=PromptsgCommand)
@_config_options
@selection_options(limit=DEFAULT_LIMIT)
@json_option
def command(config: FaithfulnessConfig, selection: RowSelection, as_json: bool) -> None:
    """Measure how faithful RUN's maps are to the score that they explain, and whether they depend on the weights.

    Patches are removed in the order of a map, highest first, and replaced by a blurred copy of the image or by its mean
    colour (deletion), or put back in that order (insertion). A faithful map has a smaller area under the deletion
    curve, and a larger one under the insertion curve, than a random order on the same images. The score is the
    probability of the predicted class (or of the label, as RUN was mined), or the cosine to the image's own feature.

    Without --order-by and --keys, --limit takes images at random. --seed also sets the random orders, the
    intervals and the random weights.

    Writes faithfulness.parquet (areas by image), curves.csv, summary.json and curves.png. Intervals are 95 %, by
    bootstrap over identities.

    \b
    Examples:
      promptsg faithfulness RUN --checkpoint ViT-B-16_60.pth --where "split = 'query'" --sample 200
      promptsg faithfulness RUN --checkpoint ViT-B-16_60.pth --map gradcam++/mim --map mim_attention --no-sanity
    """
    config = replace(config, selection=selection, seed=selection.seed)
    refuse_wrong_request(config)
    with loading_torch():
        from jobs.faithfulness.measure import measure_faithfulness

    result = measure_faithfulness(config)
    if as_json:
        echo(json_text(result.summary.as_json()))
    else:
        echo(f"{describe(result.summary)}\nin {result.folder}")


def describe(summary: FaithfulnessSummary) -> str:
    """The tables, without a line break at the end."""
    lines = [
        f"{counted(summary.images, 'image')} of {counted(summary.identities, 'identity', 'identities')}; score: "
        f"{summary.score}",
        f"{summary.patches} patches in {counted(summary.steps, 'step')}, highest first; blur sigma "
        f"{summary.blur_sigma_pixels:g} pixels; random: mean of {counted(summary.random_orders, 'order')}",
        "area under the curve [95 % over identities]; deletion: lower is better, insertion: higher is better",
    ]
    lines += [
        f"  {counted(count, 'all-zero map')} of {name}, whose order is that of the grid's rows"
        for name, count in summary.zero_maps.items()
        if count
    ]
    lines += ["", *_aligned(_faithfulness_rows(summary))]
    if summary.sanity:
        lines += [
            "",
            f"correlation with the stored maps of {counted(summary.sanity[0].images, 'image')}, after weights were "
            "made random "
            "(near 0: the map depends on them)",
            *_aligned(_sanity_rows(summary)),
        ]
    return "\n".join(lines)


def _faithfulness_rows(summary: FaithfulnessSummary) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("map", "kind", "fill", "area", "minus random")]
    for entry in summary.faithfulness:
        rows.append((entry.map, entry.kind, entry.fill, _interval(entry.auc), _interval(entry.difference, "+")))
    return rows


def _sanity_rows(summary: FaithfulnessSummary) -> list[tuple[str, ...]]:
    """The rows of one map together, in the order of the maps."""
    rows: list[tuple[str, ...]] = [("map", "random", "Pearson", "Spearman", "constant maps")]
    for name in summary.zero_maps:
        rows += [
            (name, entry.random, _interval(entry.pearson), _interval(entry.spearman), str(entry.constant_maps))
            for entry in summary.sanity
            if entry.map == name
        ]
    return rows


def _interval(value: MeanInterval | None, sign: str = "") -> str:
    """`0.123 [0.100, 0.150]`; a dash where the mean is not defined."""
    if value is None or value.mean is None:
        return "-"
    ends = "" if value.low is None or value.high is None else f" [{value.low:{sign}.4f}, {value.high:{sign}.4f}]"
    return f"{value.mean:{sign}.4f}{ends}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
