"""What a compiled image tower gains on a CPU: `python -m tests.bench.bench_compiled`.

One process, one set of random ViT-B/16 weights, one batch. The tokens and the seven maps of both ways are compared
first. Then the arms take turns, and ratios are those of the same repetition.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cam.targets import PREDICTED
from jobs.memory import keep_freed_memory
from jobs.mining.passes.compiled import TOLERANCES, CompiledPass
from jobs.mining.passes.plain import PlainPass
from promptsg_core.families.promptsg.config import ModelConfig
from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.precision import PRECISIONS
from promptsg_core.towers.stack import stacks_of
from tests.bench.arms import Arm, Spread, distance, measure, require_equal
from tests.bench.bench_maps import SEVEN, machine

CPU = torch.device("cpu")


def run(asked: argparse.Namespace, config: ModelConfig) -> dict[str, Any]:
    """Everything that is printed, as plain JSON types."""
    dtype = PRECISIONS[asked.precision]
    model = PromptSG(config).requires_grad_(False).eval().convert(dtype)
    images = torch.randint(0, 256, (asked.batch, 3, *config.image_size), dtype=torch.uint8)
    plain = PlainPass(model=model, maps=SEVEN)
    compiled = CompiledPass(plain, asked.batch)
    started = time.perf_counter()
    found = compiled(images, PREDICTED)
    seconds_first = time.perf_counter() - started
    if compiled.blocks.failed:
        raise SystemExit("the tower could not be compiled: the line above says why")
    wanted = plain(images, PREDICTED)
    differences = {name: distance(found.maps[name], wanted.maps[name]) for name in SEVEN}
    require_equal(differences, 10 * TOLERANCES[dtype])
    prepared, (stack,) = model.prepare(images), stacks_of(model)

    @torch.no_grad()
    def tower() -> object:
        return model.image_encoder(prepared)

    def tower_compiled() -> object:
        with stack.by(compiled.blocks):
            return tower()

    arms: dict[str, Arm] = {
        "tower": tower,
        "tower compiled": tower_compiled,
        "pass": lambda: plain(images, PREDICTED),
        "pass compiled": lambda: compiled(images, PREDICTED),
    }
    before = machine(CPU)
    wall, processor = measure(arms, asked.repetitions, asked.warm_up, CPU)
    return {
        "batch": asked.batch,
        "precision": asked.precision,
        "machine": before,
        "load_after": os.getloadavg(),
        "seconds_first_pass": seconds_first,
        "differences": differences,
        "seconds": {name: asdict(Spread.of(values)) for name, values in wall.items()},
        "ratios": {name: _gain(wall, name) for name in ("tower", "pass")},
        "processor_ratios": {name: _gain(processor, name) for name in ("tower", "pass")},
    }


def _gain(seconds: dict[str, list[float]], name: str) -> dict[str, float]:
    """Images per second of the compiled arm over those of the plain one, repetition by repetition."""
    paired = zip(seconds[name], seconds[f"{name} compiled"], strict=True)
    return asdict(Spread.of([plain / compiled for plain, compiled in paired]))


def describe(result: dict[str, Any]) -> str:
    """The table."""
    here = result["machine"]
    lines = [
        f"{here['processor']}, {here['threads']} threads, torch {here['torch']}; load {here['load'][0]:.1f} before, "
        f"{result['load_after'][0]:.1f} after",
        f"batch {result['batch']}, {result['precision']}: median [quartiles]; the first pass, which compiles, took "
        f"{result['seconds_first_pass']:.0f} s; maps differ by at most {max(result['differences'].values()):.2g}",
    ]
    lines += [f"{name:16s}{Spread(**values)!s:>28s} s" for name, values in result["seconds"].items()]
    for name in ("tower", "pass"):
        wall, processor = Spread(**result["ratios"][name]), Spread(**result["processor_ratios"][name])
        lines.append(f"{name}: compiled / plain {wall!s}, by processor time {processor!s}")
    return "\n".join(lines)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, help="Of torch.  [default: as torch chooses]")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write every figure.")
    return parser.parse_args(words)


def main() -> None:
    """Prints the table."""
    asked = parse()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    keep_freed_memory()  # as every command of ours does
    torch.manual_seed(0)
    result = run(asked, ModelConfig())
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=1) + "\n")
    print(describe(result))


if __name__ == "__main__":
    main()
