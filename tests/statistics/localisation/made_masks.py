"""Masks as files, and runs over images that have them."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.leftovers import scratch_folder
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import create_manifest
from jobs.runs.request import RecordedShard, RequestedSettings, ResolvedSettings, RunRequest
from jobs.shards.samples import Sample, read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import Shard
from jobs.statistics.localisation.findings import LocaliseFindings
from jobs.statistics.localisation.localise import LocaliseConfig, measure
from tests.support.made_runs import made_shard
from tests.support.shard_files import Member, market_key, sample_members, textured_image, write_tar

MAPS = ("mim_attention", "gradcam++/mim")
MEASURES = ("on_person", "ratio", "pointing", "auc")
GRID = (16, 8)
LABELS = np.array([[0, 1, 2], [3, 0, 1]], np.uint8)


def png(pixels: np.ndarray, mode: str | None = None, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels, mode).save(out, form)
    return out.getvalue()


def palette_png(labels: np.ndarray) -> bytes:
    """As human parsing tools write masks: indices, with colours for people."""
    image = Image.fromarray(labels, "P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def raw_png(labels: np.ndarray, depth: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits, by hand: Pillow writes none (ISO/IEC 15948)."""
    height, width = labels.shape
    bits = ((labels[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(height, -1).astype(np.uint8)
    lines = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, 0, 0, 0, 0])
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def a_mask(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A block of labels 1 to 3 somewhere on background."""
    h, w = size
    labels = np.zeros(size, np.uint8)
    top, left = rng.integers(0, h // 3), rng.integers(0, w // 3)
    bottom, right = rng.integers(h // 2, h), rng.integers(w // 2, w) + 1
    labels[top:bottom, left:right] = 1 + (np.arange(top, bottom) * 3 // h)[:, None]
    return labels


def shares(mask: np.ndarray, grid: tuple[int, int] = GRID) -> np.ndarray:
    """The part of each patch that a mask covers, by making pixels so small that patches are whole numbers of them."""
    (h, w), (rows, columns) = mask.shape, grid
    fine = np.kron(mask, np.ones(grid))  # (h * rows, w * columns)
    return np.asarray(fine.reshape(rows, h, columns, w).mean(axis=(1, 3)))


def expected(one: np.ndarray, share: np.ndarray) -> list[float]:
    """on_person, ratio, pointing and auc of one map with one highest patch."""
    mass = (one * share).sum() / one.sum()
    on = share > 0.5
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    return [mass, mass / share.mean(), float(on.ravel()[one.argmax()]), metrics.roc_auc_score(on.ravel(), one.ravel())]


@dataclass
class Made:
    """A run with its tars and, by key, masks as arrays and maps."""

    root: Path
    tars: Path
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    maps: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    def config(self, **given: object) -> LocaliseConfig:
        values = {"run": self.root, "shards_root": self.tars, "resamples": 60, **given}
        return LocaliseConfig(**values)  # type: ignore[arg-type]

    def find(self, **given: object) -> LocaliseFindings:
        """Without a report: its figures take longer than all the rest."""
        config = self.config(**given)
        with scratch_folder() as scratch:
            measured = measure(config, scratch)
            config.folder.mkdir(exist_ok=True)
            measured.rows.publish(config.folder / "localise.parquet")
        return measured.findings

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in pq.read_table(self.root / "localise" / "localise.parquet").to_pylist()}


def make(
    folder: Path,
    masks: dict[str, bytes | None],
    *,
    names: tuple[str, ...] = ("query-000000", "gallery-000000"),
    grid: tuple[int, int] = GRID,
    model: dict[str, object] | None = None,
    seed: int = 0,
) -> Made:
    """A run of two shards with the samples of these keys; a mask of None is not written."""
    made, rng = Made(folder / "RUN", folder / "tars"), np.random.default_rng(seed)
    shards = [RecordedShard(name=name, url=f"/nowhere/{name}.tar", size=1) for name in names]
    request = RunRequest(asked=RequestedSettings(maps=MAPS), shards=tuple(shards))
    resolved = ResolvedSettings.model_validate({"precision": "fp32", "model": model or {}})
    manifest = create_manifest(RunLayout(made.root), request, resolved)
    for name, keys in zip(names, np.array_split(list(masks), len(names)), strict=True):
        members: list[Member] = []
        for n, key in enumerate(keys.tolist()):
            members += sample_members(key, textured_image(n))
            members += [(f"{key}.mask.png", data)] if (data := masks[key]) is not None else []
        path = write_tar(made.tars / f"{name}.tar", members)
        with TarReader(Shard(name=name, url=str(path), size=None)) as tar:
            samples = [sample for sample, _ in read_samples(tar, name)]
        for sample in samples:
            sample.height, sample.width = 32, 16
        arrays = {m: rng.gamma(0.5, 1, (len(samples), *grid)).astype(np.float32) for m in MAPS}
        made_shard(made.root, manifest, name, samples, **arrays)
        made.samples += samples
        for n, sample in enumerate(samples):
            made.maps[sample.key] = {m: arrays[m][n].astype(np.float64) for m in MAPS}
    return made


def key_of(number: int) -> str:
    return market_key(1 + number // 4, number % 3, number)


def write_masks(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    for key, mask in masks.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{key}.png").write_bytes(palette_png(mask))
    return folder


def queries_of(samples: list[Sample], ap: np.ndarray, right: np.ndarray) -> pa.Table:
    """As `promptsg evaluate` writes it; the fourth query has no match."""
    rows = [sample for sample in samples if sample.split == "query"]
    return pa.table(
        {
            "shard": ["query-000000"] * len(rows),
            "key": [sample.key for sample in rows],
            "h5_row": pa.array(range(len(rows)), pa.int64()),
            "ap": pa.array(ap, mask=np.arange(len(rows)) == 3),
            "rank1_correct": right,
        }
    )
