"""`promptsg faithfulness`: are the maps faithful to the score, and do they depend on what was learned?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from jobs.commands.options import device_option, json_option, run_argument, selection_options, shards_root_option
from jobs.faithfulness.plan import DEFAULT_LIMIT, FaithfulnessConfig
from jobs.runs.query import RowSelection


@click.command(name="faithfulness")
@run_argument
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True,
              help="The checkpoint that RUN was mined with.")  # fmt: skip
@click.option("--map", "maps", multiple=True, help="A stored map; repeatable.  [default: all]")
@selection_options(limit=DEFAULT_LIMIT)
@click.option("--steps", type=click.IntRange(1), default=16, show_default=True,
              help="The steps from no removed patch to all removed.")  # fmt: skip
@click.option("--random", type=click.IntRange(1), default=3, show_default=True, help="Random orders for each image.")
@click.option("--sigma", type=click.FloatRange(0.1, 1000), help="The blur's standard deviation in pixels of the "
              "model's input.  [default: half a patch: 1 % of a pattern that repeats within it remains]")  # fmt: skip
@click.option("--sanity/--no-sanity", default=True, show_default=True, help="Compare with re-initialised models.")
@click.option("--sanity-images", type=click.IntRange(1), default=32, show_default=True,
              help="How many images to compare with the re-initialised models.")  # fmt: skip
@click.option("--resamples", type=click.IntRange(100), default=2000, show_default=True,
              help="How often identities are resampled, for the intervals.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Images in one pass.")
@device_option
@click.option("--precision", help="auto, bf16, fp16 or fp32.  [default: as RUN was mined]")
@click.option("--label-map", type=click.Path(path_type=Path), help="The file that RUN was mined with, if any.")
@click.option("--reference", type=click.Path(path_type=Path), help="The run that RUN's target similarity refers to.")
@shards_root_option
@click.option("--any-checkpoint", is_flag=True, help="Accept another checkpoint than RUN's.")
@click.option("--output", type=click.Path(path_type=Path), help="The folder for the results.  "
              "[default: RUN/faithfulness]")  # fmt: skip
@json_option
def command(
    run: Path,
    checkpoint: Path,
    maps: tuple[str, ...],
    selection: RowSelection,
    steps: int,
    random: int,
    sigma: float | None,
    sanity: bool,
    sanity_images: int,
    resamples: int,
    batch_size: int,
    device: str,
    precision: str | None,
    label_map: Path | None,
    reference: Path | None,
    shards_root: str | None,
    any_checkpoint: bool,
    output: Path | None,
    as_json: bool,
) -> None:
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
    from jobs.faithfulness.describe import describe
    from jobs.faithfulness.measure import measure_faithfulness
    from jobs.logs import setup_logging

    setup_logging()
    config = FaithfulnessConfig(
        run=run,
        checkpoint=checkpoint,
        selection=selection,
        maps=maps,
        seed=selection.seed,
        steps=steps,
        random=random,
        sigma=sigma,
        sanity=sanity,
        sanity_images=sanity_images,
        resamples=resamples,
        batch_size=batch_size,
        device=device,
        precision=precision,
        label_map=label_map,
        reference=reference,
        shards_root=shards_root,
        any_checkpoint=any_checkpoint,
        output=output,
    )
    result = measure_faithfulness(config)
    if as_json:
        click.echo(json.dumps(result.summary.as_json(), indent=1, ensure_ascii=False))
    else:
        click.echo(f"{describe(result.summary)}\nin {result.folder}")
