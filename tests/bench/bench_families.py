"""Three maps against a bare forward pass, for each family: `python -m tests.bench.bench_families`.

Models of the authors' sizes with random weights. For each family the features of both arms are compared first, then
the arms take turns: `forward` gives retrieval features without gradient, `maps` the family's maps by default, and
`legrad` and `chefer`, which need a pass through all blocks with gradient, come beside them on request.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cam.extract import extract_maps
from jobs.memory import keep_freed_memory
from promptsg_core.families.clipreid import ClipReid, ClipReidConfig
from promptsg_core.families.irra import Irra, IrraConfig
from promptsg_core.families.osnet import OSNet, OSNetConfig
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.families.transreid.config import TransReidConfig
from promptsg_core.families.transreid.model import TransReid
from promptsg_core.model import AnyModel
from promptsg_core.precision import PRECISIONS
from tests.bench.arms import Arm, Spread, distance, measure, require_equal
from tests.bench.bench_maps import TOLERANCES, machine, peak_growth

RELEVANCE = ("legrad", "chefer")


# A model of the usual size of each family, built when it is its turn.
MODELS: dict[str, Callable[[], AnyModel]] = {
    "PromptSG": lambda: PromptSG(ModelConfig()),
    "CLIP-ReID, cameras": lambda: ClipReid(ClipReidConfig(camera_rows=6)),
    "TransReID base, JPM, cameras": lambda: TransReid(TransReidConfig(jpm=True, camera_rows=6, sie_camera=True)),
    "IRRA 384x128": lambda: Irra(IrraConfig(num_classes=11003, cross_heads=8)),
    "OSNet x1.0": lambda: OSNet(OSNetConfig()),
}


def arms_of(model: AnyModel, images: torch.Tensor, further: Sequence[str]) -> dict[str, Arm]:
    """name -> one pass over the batch. Models with cameras get the first for all images."""
    cameras = torch.zeros(len(images), dtype=torch.long) if model.camera_rows else None
    found: dict[str, Arm] = {
        "forward": lambda: model(images, cameras),
        "maps": lambda: extract_maps(model, images, model.config.default_maps, cameras=cameras),
    }
    for name in further if model.has_attention else ():
        found[name] = lambda name=name: extract_maps(model, images, [name], cameras=cameras)  # type: ignore[misc]
    return found


def run(asked: argparse.Namespace, name: str, model: AnyModel) -> dict[str, Any]:
    """The figures of one family, as plain JSON types; `model` is in float32 and is converted."""
    device = torch.device(asked.device)
    model.requires_grad_(False).eval().made_ready()
    model = model.to(device).convert(PRECISIONS[asked.precision])
    noise = torch.rand(asked.batch, 3, *model.config.image_size, generator=torch.Generator().manual_seed(0))
    arms = arms_of(model, noise.mul_(2).sub_(1).to(device), asked.further)
    difference = distance(arms["maps"]().features, arms["forward"]())  # type: ignore[attr-defined, arg-type]
    require_equal({f"{name}: features": difference}, TOLERANCES[asked.precision])
    seconds, _ = measure(arms, asked.repetitions, asked.warm_up, device)
    memory = {arm: peak_growth(work, device) for arm, work in arms.items()}
    return {
        "grid": list(model.grid),
        "maps": list(model.config.default_maps),
        "seconds": seconds,
        "peak_bytes": memory,
        "ratios": {
            arm: [mine / bare for mine, bare in zip(times, seconds["forward"], strict=True)]
            for arm, times in seconds.items()
            if arm != "forward"
        },
    }


def describe(name: str, found: Mapping[str, Any], batch: int) -> str:
    """A row of the table: seconds of each arm as a multiple of the forward pass, and memory beyond the weights."""
    bare = statistics.median(found["seconds"]["forward"]) / batch * 1000
    memory = {arm: "-" if peak is None else f"{peak >> 20} MiB" for arm, peak in found["peak_bytes"].items()}
    parts = [f"{arm} {Spread.of(ratios)} times, {memory[arm]}" for arm, ratios in found["ratios"].items()]
    return f"{name:30s} forward {bare:.1f} ms an image, {memory['forward']}; {'; '.join(parts)}"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=TOLERANCES, default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--further", nargs="*", default=[], choices=RELEVANCE, help="Methods beside the default maps.")
    parser.add_argument("--only", help="The families whose names begin so.", default="")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write every figure, single times included.")
    return parser.parse_args(words)


def main() -> None:
    """Prints the table."""
    asked = parse()
    keep_freed_memory()
    torch.manual_seed(0)
    result: dict[str, Any] = {"batch": asked.batch, "precision": asked.precision,
                              "machine": machine(torch.device(asked.device)), "families": {}}  # fmt: skip
    for name, build in MODELS.items():
        if name.startswith(asked.only):
            result["families"][name] = run(asked, name, build())
            print(describe(name, result["families"][name], asked.batch), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
