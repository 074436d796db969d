"""A tiny model that knows the persons of its training images: its classes are the means of their features.

No training is needed, and the class of each person is whatever the caller chooses.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from promptsg_core.families.promptsg.model import PromptSG
from promptsg_core.preprocess import decode_image, resize_image
from tests.support.shard_files import market_key, sample_members, write_tar
from tests.support.tiny import tiny_state

SIZE = (64, 32)
_SHARPNESS = 10.0  # the logit of a person's own class is larger than the others by so much


def person_image(pid: int, number: int, size: tuple[int, int] = SIZE) -> bytes:
    """A JPEG of a person's own pattern, with a little noise of the image's own."""
    height, width = size
    coarse = np.random.default_rng(pid).integers(0, 255, (8, 4, 3), dtype=np.uint8)
    pattern = np.asarray(Image.fromarray(coarse).resize((width, height)), float)
    noise = np.random.default_rng([pid, number]).normal(0, 12, pattern.shape)
    out = io.BytesIO()
    Image.fromarray(np.clip(pattern + noise, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=95)
    return out.getvalue()


def person_shard(path: Path, pids: Sequence[int], images: int, *, first: int = 0, cameras: int = 6) -> None:
    """A shard with so many images of each person, over the cameras."""
    members = []
    for pid in pids:
        for number in range(first, first + images):
            key, camid = market_key(pid, number % cameras, number), number % cameras
            members += sample_members(key, person_image(pid, number), pid=pid, camid=camid)
    write_tar(path, members)


def knowing_checkpoint(path: Path, classes: Mapping[int, int], *, sharpness: float = _SHARPNESS) -> None:
    """Saves a tiny checkpoint that predicts `classes` (pid -> class) on images of these persons."""
    pids = sorted(classes)
    config, state = tiny_state(image_size=SIZE, num_classes=32)  # as many classes as the head's input has numbers
    state["classifier_proj.weight"] = torch.eye(32)  # so that the logits are this input
    model = PromptSG(config)
    model.load_state_dict(state, strict=False)
    model.eval()
    means = torch.stack([_mean_logits(model, pid) for pid in pids])
    # As training leaves them: the batch norm's output has mean 0, and a class's logit is largest on its own person.
    state["bottleneck_proj.bias"] -= means.mean(dim=0)
    rows = torch.linalg.pinv(means - means.mean(dim=0), rtol=1e-3).T * sharpness
    weight = torch.empty(len(pids), 32)
    for pid, row in zip(pids, rows, strict=True):
        weight[classes[pid]] = row
    state["classifier_proj.weight"] = weight
    state["classifier.weight"] = state["classifier.weight"][: len(pids)]
    torch.save(state, path)


@torch.no_grad()
def _mean_logits(model: PromptSG, pid: int) -> torch.Tensor:
    images = [resize_image(decode_image(person_image(pid, 1000 + n)), SIZE) for n in range(4)]
    mean: torch.Tensor = model.head(model.encode(torch.stack(images))).logits.mean(dim=0)
    return mean
