"""The figures that matter, last and in a few lines, beside those that are to be reached on an H100."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.gpu.parts import Results

_MODEL, _SHARE, _MEDIAN = 10_000, 0.9, 0.995  # images/s with 7 maps; the whole job's share of it; r of fp16
_JOB_BATCH = 256


def in_short(results: Results) -> Iterator[str]:
    """Lines for people. A part of which nothing is known has no line."""
    found: dict[str, Any] = {name: result.found for name, result in results.parts.items() if result.found}
    yield "== in short"
    for name, result in results.parts.items():
        if result.status != "done":
            yield f"{name}: {result.status}"
    if tests := found.get("tests"):
        yield f"gpu tests: {tests.get('passed', tests.get('counts'))} passed, {_counts(tests.get('others', []))}"
    speeds = found.get("speed", {}).get("speeds", [])
    for one in speeds:
        yield (f"model {one['precision']:5s} batch {one['batch']:5d}: {one['seven_maps']:10,.0f} images/s with 7 maps, "
               f"{one['forward']:10,.0f} forward")  # fmt: skip
    if speeds:
        best = max(one["seven_maps"] for one in speeds)
        yield f"model, best: {best:,.0f} images/s; to be reached on an H100: {_MODEL:,}"
    yield from _jobs(found.get("job", []), _rate(speeds))
    for one in found.get("agreement", []):
        lowest = min(one["maps"], key=lambda name: one["maps"][name]["median"])
        yield (f"r, {one['model']}, {one['precision']}: lowest median {one['maps'][lowest]['median']} ({lowest}), same "
               f"class {one['same_class']:.3f}; to be reached in fp16: {_MEDIAN}")  # fmt: skip
    for one in found.get("determinism", []):
        yield (f"same bytes, {one['precision']}: twice {one['same_twice']}, in another process "
               f"{one.get('same_in_another_process', 'not tried')}")  # fmt: skip
    for one in found.get("one batch", []):
        yield f"batch {one['batch']}: {one['kernels']} kernels, {one['busy']} of {one['span']} ms with work"


def _counts(others: list[dict[str, Any]]) -> str:
    hows = [one["how"] for one in others]
    return ", ".join(f"{hows.count(how)} {how}" for how in sorted(set(hows))) or "no others"


def _rate(speeds: list[dict[str, Any]]) -> float | None:
    """The model's images per second at the batch of the jobs, in the precision that jobs take on a GPU."""
    return next((one["seven_maps"] for one in speeds if (one["precision"], one["batch"]) == ("fp16", _JOB_BATCH)), None)


def _jobs(jobs: list[dict[str, Any]], model: float | None) -> Iterator[str]:
    for one in jobs:
        rate, gpu = one["images_per_second"], one["gpu"]
        share = f", {rate / model:.2f} of the model in fp16 (to be reached: {_SHARE})" if rate and model else ""
        working = f", the GPU works {gpu['working_percent']} %" if gpu else ""
        batch = "its own batch" if one["batch"] is None else f"batch {one['batch']}"
        said = f"{rate:,.0f} images/s{share}" if rate else f"no figure ({one['problem'][:200]})"
        yield f"job, {one['processes']} processes, {batch}: {said}{working}; main process {one['main_process_us']} us"
