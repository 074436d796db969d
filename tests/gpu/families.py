"""All maps of every family on this device against the CPU, in float32 and in the other precisions."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import torch

from tests.gpu.agreement import agreement_of, error_of, in_batches
from tests.gpu.parts import Kept
from tests.gpu.setting import Setting
from tests.gpu.subjects import KNOWN_PRECISIONS, TINY_SUBJECTS, Subject
from tests.support.tiny import random_images

_IMAGES, _FEW = 16, 4


def measure(setting: Setting, kept: Kept) -> None:
    """Keeps, for each tiny model and precision, the largest error and the least median correlation of its maps."""
    found: list[dict[str, object]] = []
    for name, subject in TINY_SUBJECTS.items():
        if subject.captioned and importlib.util.find_spec("open_clip") is None:
            found.append({"model": name, "skipped": "captions need open_clip"})
            continue
        found += _of_family(name, subject, torch.device(setting.device), _FEW if setting.small else _IMAGES)
        kept.put(found)


def _of_family(name: str, subject: Subject, device: torch.device, count: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = subject.save(Path(folder))
        there = subject.load(checkpoint, torch.device("cpu"), "fp32")
        images = random_images(there.config, count)
        exact = in_batches(subject, there, images, count)
        for precision in KNOWN_PRECISIONS:
            found = in_batches(subject, subject.load(checkpoint, device, precision), images, count)
            agreement = agreement_of(found, exact)
            errors = {each: error_of(found.maps[each], exact.maps[each]) for each in exact.maps}
            worst, lowest = (
                max(errors, key=errors.__getitem__),
                min(agreement.maps, key=lambda m: agreement.maps[m].median),
            )
            rows.append({"model": name, "precision": precision, "maps": len(errors), "same_class": agreement.same_class,
                         "finite": agreement.finite, "largest_error": errors[worst], "largest_error_of": worst,
                         "lowest_median": agreement.maps[lowest].median, "lowest_median_of": lowest})  # fmt: skip
            print(rows[-1])
    return rows
