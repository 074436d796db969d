"""What is damaged, and which commands then run: files of a workspace, and the commands that read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.damage import EVERY_FILE, JSON_FILE, Damage

_ON_CPU = ("--device", "cpu", "--precision", "fp32")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A file that is damaged, another of its kind, and the commands that read it or may notice."""

    path: str
    other: str
    commands: tuple[str, ...]
    is_json: bool = False
    also: tuple[str, ...] = ()
    is_input: bool = False

    @property
    def names(self) -> set[str]:
        """What an error may call the file: its name, its shard, what it changed with, or `also`."""
        files = Path(self.path), Path(self.other)
        return {name for file in files for name in (file.name, file.stem)} | set(self.also)

    @property
    def damages(self) -> dict[str, Damage]:
        return {**EVERY_FILE, **(JSON_FILE if self.is_json else {})}


@dataclass(frozen=True, kw_only=True)
class Command:
    """The words of a command, and the folders or files that are its results; "-" is what it prints."""

    words: tuple[str, ...]
    results: tuple[str, ...]


COMMANDS: dict[str, Command] = {
    "mine again": Command(
        words=("mine", "--config", "mine.yaml"), results=("RUN/run.json", "RUN/maps", "RUN/metadata")
    ),
    "mine anew": Command(
        words=("mine", "--config", "mine.yaml", "--output", "NEW"), results=("NEW/maps", "NEW/metadata")
    ),
    "mine label": Command(
        words=("mine", "--config", "mine.yaml", "--output", "NEW", "--target", "label", "--label-map", "labels.json"),
        results=("NEW/maps", "NEW/metadata"),
    ),
    "mine similarity": Command(
        words=("mine", "--config", "mine.yaml", "--output", "NEW", "--target", "similarity", "--reference", "RUN"),
        results=("NEW/maps", "NEW/metadata"),
    ),
    "status": Command(words=("status", "RUN"), results=("-",)),
    "status failed": Command(words=("status", "RUN", "--failed"), results=("-",)),
    "verify": Command(words=("verify", "RUN"), results=("-",)),
    "finalize": Command(words=("finalize", "RUN"), results=("RUN/metadata.parquet",)),
    "render": Command(words=("render", "RUN", "--workers", "1", "--limit", "4"), results=("RUN/pictures",)),
    "render keys": Command(words=("render", "RUN", "--workers", "1", "--keys", "keys.txt"), results=("RUN/pictures",)),
    "render again": Command(
        words=("render", "RUN", "--workers", "1", "--limit", "4", "--output", "pictures"), results=("pictures",)
    ),
    "render ranked": Command(
        words=(
            "render",
            "RUN",
            "--workers",
            "1",
            "--style",
            "ranked",
            "--topk",
            "3",
            "--size",
            "32x16",
            "--queries",
            "RUN/evaluation/queries.parquet",
        ),
        results=("RUN/pictures",),
    ),
    "render failures": Command(
        words=(
            "render",
            "RUN",
            "--workers",
            "1",
            "--style",
            "ranked",
            "--topk",
            "3",
            "--size",
            "32x16",
            "--queries",
            "RUN/evaluation/failures.txt",
        ),
        results=("RUN/pictures",),
    ),
    "gallery": Command(words=("gallery", "RUN", "--workers", "1", "--output", "look"), results=("look",)),
    "stats": Command(words=("stats", "RUN", "--by", "camid", "--output", "stats"), results=("stats",)),
    "stats merge": Command(
        words=(
            "stats",
            "RUN",
            "--merge",
            "--output",
            "stats",
            "RUN/stats/parts/part-00000-of-00002.npz",
            "RUN/stats/parts/part-00001-of-00002.npz",
        ),
        results=("stats",),
    ),
    "evaluate": Command(
        words=("evaluate", "RUN", "--output", "evaluation", "--bootstrap", "10"), results=("evaluation",)
    ),
    "faithfulness": Command(
        words=(
            "faithfulness",
            "RUN",
            "--checkpoint",
            "model.pth",
            "--device",
            "cpu",
            "--steps",
            "2",
            "--random",
            "1",
            "--no-sanity",
            "--limit",
            "4",
            "--resamples",
            "100",
            "--output",
            "faithfulness",
        ),
        results=("faithfulness",),
    ),
    "visualize": Command(
        words=(
            "visualize",
            "data/query/0004_c1s1_000018_00.jpg",
            "--checkpoint",
            "model.pth",
            *_ON_CPU,
            "--output",
            "one",
            "--height",
            "64",
        ),
        results=("one",),
    ),
    "info": Command(words=("info", "model.pth", "--json"), results=("-",)),
    "info trained": Command(words=("info", "TRAINED/model.safetensors", "--json"), results=("-",)),
    "shard again": Command(
        words=("shard", "data", "shards", "--dataset", "market1501", "--images-per-shard", "8"), results=("shards",)
    ),
    "submit": Command(
        words=("submit", "mine.yaml", "--array-tasks", "2", "--time", "1:00:00", "--dry-run"), results=("-",)
    ),
    "train": Command(
        words=(
            "train",
            "--shards",
            "shards/train-*.tar",
            "--scratch",
            "--image-size",
            "32",
            "16",
            "--identities",
            "2",
            "--images-each",
            "2",
            "--steps",
            "4",
            "--device",
            "cpu",
            "--precision",
            "fp32",
            "--output",
            "TRAINED",
        ),
        results=("TRAINED/model.safetensors",),
    ),
}

_READERS = (
    "mine again",
    "mine similarity",
    "status",
    "status failed",
    "verify",
    "finalize",
    "render",
    "render ranked",
    "gallery",
    "stats",
    "evaluate",
    "faithfulness",
)
_IMAGES = ("mine again", "mine anew", "status", "verify", "render", "gallery", "faithfulness", "shard again", "submit")
TARGETS: tuple[Target, ...] = (
    Target(
        path="shards/train-000000.tar",
        other="shards/train-000001.tar",
        commands=("mine anew", "train", "verify"),
        also=("TRAINED holds a training with other settings: images",),
    ),
    Target(path="shards/gallery-000000.tar", other="shards/train-000001.tar", commands=_IMAGES),
    Target(
        path="shards/shards.json",
        other="RUN/run.json",
        commands=("shard again", "mine anew", "mine again", "verify"),
        is_json=True,
    ),
    Target(path="RUN/run.json", other="REFERENCE/run.json", commands=_READERS, is_json=True),
    Target(path="RUN/maps/gallery-000000.h5", other="RUN/maps/train-000001.h5", commands=_READERS),
    Target(
        path="RUN/maps/train-000000.h5",
        other="RUN/maps/train-000001.h5",
        commands=("verify", "stats", "mine similarity"),
    ),
    Target(path="RUN/metadata/gallery-000000.parquet", other="RUN/metadata/train-000001.parquet", commands=_READERS),
    Target(
        path="RUN/metadata/train-000000.parquet",
        other="RUN/metadata/train-000001.parquet",
        commands=("verify", "stats", "mine similarity", "status failed"),
    ),
    Target(
        path="RUN/metadata.parquet",
        other="RUN/metadata/train-000000.parquet",
        commands=("finalize", "stats", "status", "verify"),
    ),
    Target(
        path="RUN/logs/shards-node-1.jsonl",
        other="RUN/run.json",
        commands=("status", "status failed", "verify", "mine again"),
    ),
    Target(
        path="RUN/evaluation/queries.parquet",
        other="RUN/metadata/train-000001.parquet",
        commands=("render ranked", "render failures"),
    ),
    Target(is_input=True, path="RUN/evaluation/failures.txt", other="keys.txt", commands=("render failures",)),
    Target(
        path="RUN/stats/parts/part-00000-of-00002.npz",
        other="RUN/stats/parts/part-00001-of-00002.npz",
        commands=("stats merge",),
    ),
    Target(
        also=("drawn for another selection",),
        path="pictures/.requests.json",
        other="RUN/run.json",
        commands=("render again",),
        is_json=True,
    ),
    Target(path="TRAINED/resume.pt", other="model.pth", commands=("train",)),
    Target(path="TRAINED/train.json", other="RUN/run.json", commands=("train",), is_json=True),
    Target(path="TRAINED/model.safetensors", other="model.pth", commands=("info trained", "train")),
    Target(
        is_input=True,
        also=("checkpoint_sha256",),
        path="model.pth",
        other="TRAINED/resume.pt",
        commands=("info", "visualize", "mine anew", "mine again", "faithfulness", "submit"),
    ),
    Target(is_input=True, path="labels.json", other="RUN/run.json", commands=("mine label",), is_json=True),
    Target(is_input=True, path="keys.txt", other="model.pth", commands=("render keys",)),
    Target(
        is_input=True,
        also=("no file matches 'shardc/*.tar'",),  # what the damaged file says
        path="mine.yaml",
        other="model.pth",
        commands=("mine again", "submit"),
        is_json=True,
    ),
    Target(
        is_input=True,
        path="data/query/0004_c1s1_000018_00.jpg",
        other="data/query/0005_c1s1_000019_00.jpg",
        also=("query-000000.tar",),  # the shard that it belongs to
        commands=("visualize", "shard again"),
    ),
)
