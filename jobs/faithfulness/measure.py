"""`promptsg faithfulness`: does the score that a map explains rest on the patches that the map names?

Deletion and insertion curves of any stored map against random orders on the same images, and the sanity check with
re-initialised weights. torch is imported when the command runs.

Legend: N images, O orders (each map, then random), F fills, K steps, S scores, B images at a time.
"""

from __future__ import annotations

import json
import logging
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.errors import UserError
from jobs.faithfulness.plan import FILLS, RANDOM, Config, Explained, Measured
from jobs.faithfulness.report import describe, summarise, write
from jobs.faithfulness.score import check_checkpoint, explain, load

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from jobs.runs.run import Run
    from jobs.shards.random_access import Row
    from promptsg_core.model import PromptSG


logger = logging.getLogger(__name__)
_CHUNK = 32  # images whose pixels are held at once


@click.command(name="faithfulness", short_help="Do the scores rest on the patches that the maps name?")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, help="That RUN was mined with.")
@click.option("--map", "maps", multiple=True, help="A stored map; repeatable.  [default: all]")
@click.option("--where", help="SQL over the metadata's columns, such as \"split = 'query'\".")
@click.option("--order-by", help="SQL, such as 'mim_attention_entropy DESC'.")
@click.option("--limit", type=click.IntRange(1), default=200, show_default=True, help="Most images: the first by "
              "--order-by or --keys, else at random.")  # fmt: skip
@click.option("--sample", type=click.IntRange(1), help="So many of the images at random.")
@click.option("--keys", type=click.File(encoding="utf-8"), help="A file with a key on each line; - is standard input.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of --sample, the random orders, "
              "the intervals and the random weights.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), default=16, show_default=True, help="From no patch removed to all.")
@click.option("--random", type=click.IntRange(1), default=3, show_default=True, help="Random orders for each image.")
@click.option("--sigma", type=click.FloatRange(0.1, 1000), help="Of the blur, in pixels of the model's input.  "
              "[default: half a patch, which leaves 1 % of what repeats within one]")  # fmt: skip
@click.option("--sanity/--no-sanity", default=True, show_default=True, help="Compare with re-initialised models.")
@click.option("--sanity-images", type=click.IntRange(1), default=32, show_default=True, help="So many of the images.")
@click.option("--resamples", type=click.IntRange(100), default=2000, show_default=True, help="For the intervals.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Images in one pass.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", help="auto, bf16, fp16 or fp32.  [default: as RUN was mined]")
@click.option("--label-map", type=click.Path(path_type=Path), help="The file that RUN was mined with, if any.")
@click.option("--reference", type=click.Path(path_type=Path), help="The run that RUN's target similarity refers to.")
@click.option("--shards-root", help="The folder or address where the shards are now, if they moved.")
@click.option("--any-checkpoint", is_flag=True, help="Also with another checkpoint than RUN's.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder.  [default: RUN/faithfulness]")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(run: Path, output: Path | None, as_json: bool, **options: Any) -> None:
    """Measure how faithful RUN's maps are to the score that they explain, and whether they depend on the weights.

    Patches are removed in the order of a map, highest first, and replaced by a blurred copy of the image or by its mean
    colour (deletion), or put back in that order (insertion). A faithful map has a smaller area under the deletion
    curve, and a larger one under the insertion curve, than a random order on the same images. The score is the
    probability of the predicted class (or of the label, as RUN was mined), or the cosine to the image's own feature.

    Writes faithfulness.parquet (areas by image), curves.csv, summary.json and curves.png. Intervals are 95 %, by
    bootstrap over identities.

    \b
    Examples:
      promptsg faithfulness RUN --checkpoint ViT-B-16_60.pth --where "split = 'query'" --sample 200
      promptsg faithfulness RUN --checkpoint ViT-B-16_60.pth --map gradcam++/mim --map mim_attention --no-sanity
    """
    from jobs.logs import setup_logging
    from jobs.runs.query import read_keys
    from jobs.runs.run import open_run

    setup_logging()
    opened = open_run(run)
    options["maps"] = opened.choose_maps(options["maps"]) or opened.maps
    if options["keys"] is not None:
        options["keys"] = read_keys(options["keys"])
    config = Config(**options)
    measured = measure(opened, config)
    summary = summarise(opened, config, measured)
    folder = output or run / "faithfulness"
    write(folder, config, measured, summary)
    click.echo(json.dumps(summary, indent=1, ensure_ascii=False) if as_json else f"{describe(summary)}\nin {folder}")


def measure(run: Run, config: Config) -> Measured:
    """Curves and correlations of the images that `config` selects.

    Raises UserError on another checkpoint, an empty selection, and shards that are not there or have changed.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from cam.faithfulness import passes, removal_counts

    digest = check_checkpoint(run, config)
    rows = select(run, config)
    model, precision = load(run, config)
    explained = explain(run, config, model)
    counts = removal_counts(model.grid[0] * model.grid[1], config.steps)
    sigma = config.sigma or model.config.patch_size / 2
    each = passes(len(config.maps) + config.random, len(FILLS), config.steps)
    logger.info("%d images, %s passes each through the model in %s", len(rows), f"{each:,}", precision)
    # Evenly from the selection: rows that follow each other are often of one identity.
    checked = sorted({i * len(rows) // config.sanity_images for i in range(config.sanity_images)}) * config.sanity
    found, kept = [], []
    with tqdm(total=len(rows), unit="image", disable=None) as progress:
        for start, images in read_images(run, rows, config, model):
            some = rows[start : start + len(images)]
            maps = {name: run.maps_of(name, rows[start : start + len(images)]) for name in config.maps}
            found.append(chunk_curves(images, some, maps, explained, config, model, sigma))
            kept.append(images[[i - start for i in checked if start <= i < start + len(images)]].cpu())
            progress.update(len(images))
    stored = {name: run.maps_of(name, rows) for name in config.maps}
    correlations = {}
    if checked:
        first = {name: values[checked] for name, values in stored.items()}
        correlations = check_sanity(run, config, model, explained, [rows[i] for i in checked], torch.cat(kept), first)
    return Measured(
        rows=rows,
        orders=(*config.maps, RANDOM),
        curves=np.concatenate(found),
        counts=counts.numpy(),
        correlations=correlations,
        checked=np.array(checked, np.int64),
        zero_maps={name: int((~values.any(axis=(1, 2))).sum()) for name, values in stored.items()},
        scores=explained.scores,
        title=explained.title,
        sigma=sigma,
        precision=precision,
        checkpoint_sha256=digest,
    )


def select(run: Run, config: Config) -> list[Row]:
    """The selected rows that have all maps. Raises UserError where there is none."""
    from jobs.runs.query import RowSelection, select_rows
    from jobs.shards.random_access import ROW_COLUMNS

    columns = (*ROW_COLUMNS, "h5_row", "pid", "camid", "split", "predicted")
    # The first of a run are few identities of one split, so without an order the limit is a sample.
    sample = config.sample if config.order_by or config.keys is not None else config.sample or config.limit
    selection = RowSelection(
        where=config.where,
        order_by=config.order_by,
        limit=config.limit,
        sample=sample,
        seed=config.seed,
        keys=None if config.keys is None else tuple(config.keys),
    )
    table = select_rows(run, selection, columns=columns, also="status = 'ok'")
    if not table.num_rows:
        raise UserError(f"no image of {run.layout.root} with maps fits the selection")
    rows: list[Row] = table.to_pylist()
    return rows


def read_images(run: Run, rows: Sequence[Row], config: Config, model: PromptSG) -> Iterator[tuple[int, Tensor]]:
    """(number of the first row, (B, 3, H, W) uint8 on the model's device), as the model was given them in mining.

    Raises UserError naming the shard that is not there or does not hold what was mined.
    """
    import torch

    from jobs.shards.random_access import SourceImages, changed, locate
    from promptsg_core.errors import ImageError
    from promptsg_core.images import DEFAULT_MAX_PIXELS
    from promptsg_core.preprocess import decode_image, resize_image

    limit = run.manifest.asked.max_image_pixels or DEFAULT_MAX_PIXELS
    size, device = model.config.image_size, model.image_encoder.proj.device
    with tempfile.TemporaryDirectory() as scratch:
        sources = locate(run, rows, config.shards_root, Path(scratch))
        with SourceImages(sources) as files:
            for start in range(0, len(rows), _CHUNK):
                pixels = []
                for row, data in zip(some := rows[start : start + _CHUNK], files.read(some), strict=True):
                    try:
                        image = decode_image(data, max_pixels=limit)
                    except ImageError as error:
                        raise changed(sources[row["shard"]], row, f"what lies there is no image ({error})") from error
                    pixels.append(resize_image(image, size, run.manifest.asked.interpolation))
                yield start, torch.stack(pixels).to(device)


def chunk_curves(
    images: Tensor,
    rows: Sequence[Row],
    maps: Mapping[str, NDArray[np.float32]],
    explained: Explained,
    config: Config,
    model: PromptSG,
    sigma: float,
) -> NDArray[np.float32]:
    """(B, 3, H, W) uint8 -> (B, O, F, 2, K+1, S): the curves of each map's order and of the mean over random ones."""
    import torch

    from cam.faithfulness import blur, curves, descending_order, mean_colour, patch_of_pixel, removal_counts

    size = model.config
    cells = model.grid[0] * model.grid[1]
    by_map = [descending_order(torch.from_numpy(values)) for values in maps.values()]
    orders = torch.cat([torch.stack(by_map, dim=1), random_orders(rows, cells, config.random, config.seed)], dim=1)
    fills = {"blur": blur(images, sigma), "mean": mean_colour(images)}
    found = curves(
        images,
        [fills[name] for name in FILLS],
        orders,
        patch_of_pixel(size.image_size, size.patch_size, size.stride, model.grid),
        removal_counts(cells, config.steps),
        explained.subject(rows, images).score,
        batch_size=config.batch_size,
    ).permute(2, 3, 0, 1, 4, 5)
    ordered, random = found.split([len(maps), config.random], dim=1)
    return torch.cat([ordered, random.mean(dim=1, keepdim=True)], dim=1).numpy()


def random_orders(rows: Sequence[Row], patches: int, number: int, seed: int) -> Tensor:
    """(B, number, M) int64: orders that belong to an image and the seed, whatever else is selected."""
    import numpy as np
    import torch

    found = []
    for row in rows:
        generator = np.random.default_rng([seed, zlib.crc32(row["shard"].encode()), row["tar_index"]])
        found.append([generator.permutation(patches) for _ in range(number)])
    return torch.from_numpy(np.array(found, np.int64))


def check_sanity(
    run: Run,
    config: Config,
    model: PromptSG,
    explained: Explained,
    rows: Sequence[Row],
    images: Tensor,
    stored: Mapping[str, NDArray[np.float32]],
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """What is random -> map -> (n, 2) correlations with the stored maps."""
    from jobs.faithfulness.randomise import correlations

    subject = explained.subject(rows, images)
    form = run.manifest.asked.gradcam_plus_plus
    return correlations(model, images, stored, subject.target, gradcam_plus_plus=form, seed=config.seed,
                        batch_size=_CHUNK)  # fmt: skip
