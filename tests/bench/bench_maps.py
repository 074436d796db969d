"""All maps of ours against a bare forward pass, pytorch-grad-cam and captum: `python -m tests.bench.bench_maps`.

One process, one set of random ViT-B/16 weights, one batch, one precision. Results are compared first, and a difference
ends the run. Then the arms take turns in an order that rotates, so that a busy machine slows all of them; ratios are
those of the same repetition. See README.md beside this file for the arms.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cam.extract import Extraction, extract_maps
from jobs.benchmark.timing import peak_memory
from jobs.memory import keep_freed_memory
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.precision import PRECISIONS
from tests.bench.arms import Arm, Spread, distance, measure, require_equal
from tests.bench.cam_libraries import (
    LAYERS,
    StockGraph,
    WholeGraph,
    captum_maps,
    pytorch_grad_cam_public,
    pytorch_grad_cam_raw,
    pytorch_grad_cam_tuned,
)
from tests.bench.reference_stock import StockReference, TunedReference

GRADCAM = tuple(f"gradcam/{layer}" for layer in LAYERS)
SIX = (*GRADCAM, *(f"gradcam++/{layer}" for layer in LAYERS))
SEVEN = ("mim_attention", *SIX)
# Largest relative distance (Frobenius norm over the batch) that passes as the same result.
TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2}
# (ours, another arm, least ratio of images per second by precision); the arms of a pair compute the same maps.
TARGETS: tuple[tuple[str, str, Mapping[str, float]], ...] = (
    ("ours", "floor", {"bf16": 0.88, "fp32": 0.88}),
    ("ours", "reference-stock", {"bf16": 1.4, "fp32": 1.25}),
    ("ours", "reference-tuned", {"bf16": 1.15, "fp32": 1.15}),
    ("ours-six", "grad-cam-tuned-stock", {"fp32": 2.2}),
    ("ours-six", "grad-cam-public-stock", {"fp32": 18.0}),
    ("ours-six", "grad-cam-tuned", {}),
    ("ours-six", "grad-cam-public", {}),
    ("ours-three", "captum", {"bf16": 3.0, "fp32": 3.0}),
    ("ours-six-resized", "grad-cam-tuned-resized", {}),
    ("ours-six-resized", "grad-cam-public-resized", {}),
    ("ours-three-resized", "captum-resized", {}),
)


class Bench:
    """The models of all arms, on the same weights, and one batch of images."""

    def __init__(self, model: PromptSG, batch: int, precision: str, device: str) -> None:
        self.device, self.size = torch.device(device), model.config.image_size
        noise = torch.rand(batch, 3, *self.size, generator=torch.Generator().manual_seed(0))
        self.images = noise.mul_(2).sub_(1).to(self.device)
        model = model.requires_grad_(False).eval().to(self.device)
        self.stock = StockReference(copy.deepcopy(model), PRECISIONS[precision]).requires_grad_(False).eval()
        self.model = model.convert(PRECISIONS[precision])
        self.tuned = TunedReference(self.model).requires_grad_(False).eval()
        self.graph = WholeGraph(self.model).eval()
        # As a user of a library has it: a model straight from torch, whose parameters ask for gradients.
        trainable = copy.deepcopy(self.model).requires_grad_(True)
        self.graph_stock = StockGraph(self.stock).eval()
        self.public_stock = StockGraph(copy.deepcopy(self.stock).requires_grad_(True)).eval()
        self.public, self.spread = WholeGraph(trainable).eval(), WholeGraph(trainable, spread=True).eval()
        self.classes = self.ours(GRADCAM[:1]).predicted

    def ours(self, maps: Sequence[str], size: tuple[int, int] | None = None) -> Extraction:
        """Our maps; with `size` also interpolated, the result dropped."""
        result = extract_maps(self.model, self.images, maps=maps)
        if size is not None:
            stacked = torch.stack(list(result.maps.values()), dim=1)
            F.interpolate(stacked, size, mode="bilinear")
        return result

    def arms(self) -> dict[str, Arm]:
        """name -> one pass over the batch."""
        images, size, grid = self.images, self.size, self.model.grid
        return {
            "floor": torch.no_grad()(lambda: self.model.image_encoder(images)),
            "reference-stock": lambda: self.stock(images),
            "reference-tuned": lambda: self.tuned(images),
            "ours": lambda: self.ours(SEVEN),
            "ours-six": lambda: self.ours(SIX),
            "ours-three": lambda: self.ours(GRADCAM),
            "grad-cam-tuned": lambda: pytorch_grad_cam_tuned(self.graph, images, None),
            "grad-cam-public": lambda: pytorch_grad_cam_public(self.public, images, grid),
            "grad-cam-tuned-stock": lambda: pytorch_grad_cam_tuned(self.graph_stock, images, None),
            "grad-cam-public-stock": lambda: pytorch_grad_cam_public(self.public_stock, images, grid),
            "captum": lambda: captum_maps(self.spread, images, self.classes, None),
            "ours-resized": lambda: self.ours(SEVEN, size),
            "ours-six-resized": lambda: self.ours(SIX, size),
            "ours-three-resized": lambda: self.ours(GRADCAM, size),
            "grad-cam-tuned-resized": lambda: pytorch_grad_cam_tuned(self.graph, images, size),
            "grad-cam-public-resized": lambda: pytorch_grad_cam_public(self.public, images, size),
            "captum-resized": lambda: captum_maps(self.spread, images, self.classes, size),
        }

    def differences(self) -> dict[str, float]:
        """Relative distance of every result that two arms share, as `comparison: value`."""
        ours = self.ours(SEVEN)
        out = self.model.head(self.model.encode(self.images))
        found = {}
        for name, reference in (("stock", self.stock), ("tuned", self.tuned)):
            logits_cls, logits, features, attention = reference(self.images)
            found[f"reference-{name}: features"] = distance(features, ours.features)
            found[f"reference-{name}: logits"] = distance(logits, out.logits)
            found[f"reference-{name}: CLS logits"] = distance(logits_cls, out.logits_cls)
            found[f"reference-{name}: mim_attention"] = distance(attention, ours.maps["mim_attention"].flatten(1))
        for kind, graph in (("grad-cam", self.graph), ("grad-cam-stock", self.graph_stock)):
            # Of the classes that ours predicts: in low precision the nearest of two may be another one there.
            for name, maps in pytorch_grad_cam_raw(graph, self.images, ["gradcam"], self.classes).items():
                found[f"{kind}: {name}"] = distance(torch.from_numpy(maps), ours.maps[name])
        for name, maps in captum_maps(self.spread, self.images, self.classes, None).items():
            found[f"captum: {name}"] = distance(maps, ours.maps[name])
        return found


def peak_growth(arm: Arm, device: torch.device) -> int | None:
    """Bytes that one pass needs beyond what is held before it; None where the system does not tell."""
    use = peak_memory(arm, device)
    return None if use is None else use.peak - use.before


def report(seconds: Mapping[str, Sequence[float]], precision: str) -> dict[str, Any]:
    """Ratios of ours to each arm in images per second, by repetition, with the least that is wanted."""
    ratios = {}
    for ours, other, least in TARGETS:
        if ours in seconds and other in seconds:
            paired = [theirs / mine for theirs, mine in zip(seconds[other], seconds[ours], strict=True)]
            ratios[f"{ours} / {other}"] = {**asdict(Spread.of(paired)), "target": least.get(precision)}
    return ratios


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures hold for."""
    words = (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    return {
        "processor": next(words, platform.processor()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "load": os.getloadavg(),
        "time": time.strftime("%F %T"),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def run(asked: argparse.Namespace, model: PromptSG) -> dict[str, Any]:
    """Everything that is printed, as plain JSON types; `model` is in float32 and is converted."""
    bench = Bench(model, asked.batch, asked.precision, asked.device)
    arms = bench.arms()
    if unknown := sorted(set(asked.arms or ()) - arms.keys()):
        raise SystemExit(f"no arm is called {', '.join(unknown)}; arms are {', '.join(arms)}")
    arms = {name: arm for name, arm in arms.items() if not asked.arms or name in asked.arms}
    before = machine(bench.device)
    found = bench.differences()
    require_equal(found, TOLERANCES[asked.precision])
    seconds, processor = measure(arms, asked.repetitions, asked.warm_up, bench.device)
    return {
        "batch": asked.batch,
        "precision": asked.precision,
        "device": asked.device,
        "repetitions": asked.repetitions,
        "machine": before,
        "load_after": os.getloadavg(),
        "differences": found,
        "seconds": {name: asdict(Spread.of(values)) for name, values in seconds.items()},
        "images_per_second": {name: asked.batch / statistics.median(values) for name, values in seconds.items()},
        "peak_bytes": {name: peak_growth(arm, bench.device) for name, arm in arms.items()},
        "ratios": report(seconds, asked.precision),
        "processor_ratios": report(processor, asked.precision),
        "samples": seconds,
        "processor_samples": processor,
    }


def describe(result: Mapping[str, Any]) -> str:
    """The tables."""
    here = result["machine"]
    load = f"load {here['load'][0]:.1f} before, {result['load_after'][0]:.1f} after"
    lines = [
        f"{here['gpu'] or here['processor']}, {here['threads']} threads, torch {here['torch']}; {load}",
        f"batch {result['batch']}, {result['precision']}, {result['repetitions']} repetitions: median [quartiles]",
        f"results agree within {max(result['differences'].values()):.2g}",
        f"{'arm':26s}{'ms per batch':>32s}{'images/s':>11s}{'peak MiB':>10s}",
    ]
    for name, values in result["seconds"].items():
        spread = Spread(**{key: 1000 * value for key, value in values.items()})
        peak = result["peak_bytes"][name]
        memory = "-" if peak is None else f"{peak / 2**20:.0f}"
        lines.append(f"{name:26s}{spread!s:>32s}{result['images_per_second'][name]:11.2f}{memory:>10s}")
    # A busy machine stretches the wall clock, and the processor's time but little.
    for title, ratios in (("images per second", "ratios"), ("images per processor second", "processor_ratios")):
        lines.append(f"{'ratio of ' + title:46s}{'median [quartiles]':>24s}{'target':>8s}")
        for name, values in result[ratios].items():
            target = values["target"]
            spread = Spread(values["low"], values["median"], values["high"])
            lines.append(f"{name:46s}{spread!s:>24s}{'' if target is None else f'{target:.2f}':>8s}")
    return "\n".join(lines)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=TOLERANCES, default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="Only these.  [default: all]")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write every figure, single times included.")
    return parser.parse_args(words)


def main() -> None:
    """Prints the tables."""
    asked = parse()
    keep_freed_memory()  # as every command of ours does; all arms gain from it
    torch.manual_seed(0)
    result = run(asked, PromptSG(ModelConfig()))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")
    print(describe(result))


if __name__ == "__main__":
    main()
