"""Overlays a second as `promptsg render` draws them, against a bare OpenCV loop over the same images and maps.

    python -m tests.bench.bench_render RUN [--repetitions 15] [--images 512]

One core each, interleaved, so that a busy machine slows both. The bare loop decodes, resizes the map, colours, blends
and encodes, from memory to memory; ours does the same and also reads tar and HDF5 file by row, checks each image
against its row, and writes each picture to its file, all new ones in each repetition.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from jobs.rendering.chunks import make_chunks
from jobs.rendering.drawing.entry import rows_of
from jobs.rendering.image_files import FORMATS
from jobs.rendering.painter import Painter
from jobs.rendering.plan import plan
from jobs.rendering.render_config import RenderConfig
from jobs.runs.query import RowSelection
from jobs.runs.run import open_run
from jobs.shards.access import ShardAccess
from jobs.shards.locate import locate
from jobs.shards.random_access import SourceImages


def bare_loop(images: list[bytes], maps: np.ndarray) -> int:
    """Bytes of JPEG that the least work gives: `images` in memory, `maps` (N, h, w) float32."""
    total = 0
    for data, map in zip(images, maps, strict=True):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        low, high = map.min(), map.max()
        grey = ((map - low) * (255 / (high - low))).astype(np.uint8)
        grey = cv2.resize(grey, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
        mixed = cv2.addWeighted(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), 0.5, image, 0.5, 0)
        total += len(cv2.imencode(".jpg", mixed, FORMATS["jpg"])[1])
    return total


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:8.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    """Prints images a second for both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--folder", help="Where the pictures go.  [default: the system's temporary folder]")
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    run = open_run(asked.run)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        selection = RowSelection(where="status = 'ok'", sample=asked.images)
        config = RenderConfig(run=asked.run, output=Path(folder), form="jpg", selection=selection)
        style = config.picture_style(run)
        planned = plan(run, config, style)
        rows = rows_of(planned.table)
        sources = locate(run.manifest.shards, rows, ShardAccess(allow_remote=True), Path(folder))
        painter = Painter(root=asked.run, output=config.folder, style=style, form="jpg")
        chunks = list(make_chunks(planned.table, planned.jobs, sources, workers=1))
        with SourceImages(sources) as images:
            data = list(images.read(rows))
        maps = run.maps_of(style.maps[0], planned.table)
        bare, ours = [], []
        for repetition in range(asked.repetitions + 1):
            there = replace(painter, output=Path(folder) / str(repetition))
            there.output.mkdir()
            started = time.perf_counter()
            bare_loop(data, maps)
            middle = time.perf_counter()
            for chunk in chunks:
                there.draw(chunk)
            ended = time.perf_counter()
            if repetition:  # the first warms the caches
                bare.append(len(rows) / (middle - started))
                ours.append(len(planned.jobs) / (ended - middle))
    print(f"{len(rows)} images, {asked.repetitions} repetitions, images a second on one core: median [quartiles]")
    print(f"bare OpenCV loop  {spread(bare)}")
    print(f"promptsg render   {spread(ours)}")
    print(f"ratio             {statistics.median(o / b for o, b in zip(ours, bare, strict=True)):8.3f}")


if __name__ == "__main__":
    main()
