"""One batch under torch's profiler: how many kernels, how long the GPU worked, and where it waited."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from cam.targets import PREDICTED
from jobs.mining.passes.choice import choose_pass
from jobs.mining.passes.plain import Pass
from promptsg_core.model import AnyModel
from tests.gpu.parts import Kept
from tests.gpu.pictures import decoded, drawn_jpegs, many
from tests.gpu.setting import Setting
from tests.gpu.subjects import SEVEN, job_of, measured_subject
from tests.gpu.timeline import Work, timeline_of

_ROWS = 40  # of the table of kernels
_NAME = 100  # characters of a kernel's name


def measure(setting: Setting, kept: Kept) -> None:
    """Keeps the timeline of a batch of each size, from pixels to results on the host; writes profile.txt."""
    model = measured_subject(setting).load(setting.checkpoint, torch.device(setting.device), "auto")
    pixels = decoded(drawn_jpegs(24 if setting.small else 256), setting.image_size)
    table = setting.out / "profile.txt"
    table.write_text("")
    found = []
    for batch in (2,) if setting.small else (64, 256):
        work = _profiled(model, many(pixels, batch), table)
        found.append({"batch": batch, **asdict(timeline_of(work))})
        print(found[-1])
        kept.put(found)


def _profiled(model: AnyModel, images: torch.Tensor, table: Path) -> list[Work]:
    """What ran on the model's device in one pass; the tables of operators are added to the file."""
    on_gpu = model.device.type == "cuda"
    run = choose_pass(model, job_of(SEVEN, len(images)))  # what a job runs
    for _ in range(3):
        _step(run, model, images)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as recorded:
        _step(run, model, images)
        if on_gpu:
            torch.cuda.synchronize(model.device)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    with table.open("a") as file:
        file.write(f"batch {len(images)}\n{recorded.key_averages().table(sort_by=order, row_limit=_ROWS)}\n")
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    return [
        Work(name=event.name[:_NAME], start=event.time_range.start, end=event.time_range.end)
        for event in recorded.events()
        if event.device_type == wanted
    ]


def _step(run: Pass, model: AnyModel, images: torch.Tensor) -> None:
    found = run(images.to(model.device), PREDICTED)
    for result in (*found.maps.values(), found.features, found.score, found.predicted, found.probability):
        result.cpu()
