"""Whether the same images in the same batch give the same bytes: twice, and in another process.

`python -m tests.gpu.determinism CHECKPOINT DEVICE PRECISION HEIGHT WIDTH COUNT PROMPTED` prints a hash.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from cam.extract import Extraction
from promptsg_core.model import AnyModel
from tests.gpu.agreement import error_of
from tests.gpu.parts import Kept, environment
from tests.gpu.setting import Setting
from tests.gpu.subjects import KNOWN_PRECISIONS, USUAL, Subject, measured_subject
from tests.support.imports import REPOSITORY
from tests.support.tiny import random_images

_ELSEWHERE = ("fp32", "fp16")  # what another process computes too
_SECONDS = 60.0  # for another process


def measure(setting: Setting, kept: Kept) -> None:
    """Keeps, by precision, whether the bytes were the same, and how far a batch of one is from a whole batch."""
    device, subject = torch.device(setting.device), measured_subject(setting)
    count = 4 if setting.small else 64
    found: list[dict[str, object]] = []
    for precision in KNOWN_PRECISIONS:
        model = subject.load(setting.checkpoint, device, precision)
        images = random_images(model.config, count)
        whole = subject.extract(model, images)
        again = subject.extract(model, images)
        row: dict[str, object] = {
            "precision": precision,
            "images": count,
            "same_twice": digest(whole) == digest(again),
            "differ_twice": [name for name in whole.maps if not torch.equal(whole.maps[name], again.maps[name])],
            "alone_against_batch": {
                name: float(f"{error:.2g}") for name, error in _errors_alone(subject, model, images, whole).items()
            },
        }
        found.append(row)
        kept.put(found)
        if precision not in _ELSEWHERE:
            continue
        row["same_in_another_process"] = digest(whole) == digest_elsewhere(
            subject, setting.checkpoint, device, precision, model.config.image_size, count
        )
        kept.put(found)
        print(row)


def _errors_alone(subject: Subject, model: AnyModel, images: torch.Tensor, whole: Extraction) -> dict[str, float]:
    """name -> the largest error of the first map, taken in a batch of one."""
    one = subject.extract(model, images[:1])
    return {name: error_of(one.maps[name], whole.maps[name][:1]) for name in whole.maps}


def digest(found: Extraction) -> str:
    """A hash of the bytes of all results."""
    total = hashlib.sha256()
    for result in (*found.maps.values(), found.features, found.score, found.predicted, found.probability):
        total.update(result.contiguous().cpu().numpy().tobytes())
    return total.hexdigest()


def digest_elsewhere(
    subject: Subject, checkpoint: Path, device: torch.device, precision: str, size: tuple[int, int], count: int
) -> str:
    """The hash that another process gets for `count` random images. Only for a PromptSG, with or without a prompt."""
    words = [str(checkpoint), str(device), precision, *map(str, size), str(count), str(int(subject.prompted))]
    done = subprocess.run([sys.executable, "-m", "tests.gpu.determinism", *words], cwd=REPOSITORY, env=environment(),
                          capture_output=True, text=True, timeout=_SECONDS)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the other process failed: {done.stderr[-1000:]}")
    return done.stdout.split()[-1]


def main(words: Sequence[str]) -> None:
    """Prints the hash."""
    checkpoint, device, precision, height, width, count, prompted = words
    size = (int(height), int(width))
    subject = Subject(state=USUAL.state, image_size=size, prompted=bool(int(prompted)))
    model = subject.load(Path(checkpoint), torch.device(device), precision)
    print(digest(subject.extract(model, random_images(model.config, int(count)))))


if __name__ == "__main__":
    main(sys.argv[1:])
