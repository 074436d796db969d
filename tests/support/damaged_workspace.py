"""A small workspace with every kind of file that commands read, and what each command makes of it once damaged."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
from click.testing import CliRunner
from safetensors import SafetensorError
from safetensors.torch import load_file

from jobs.cli import main
from jobs.launch.drain import Drain
from jobs.shards.urls import expand_shards
from jobs.training.config import TrainConfig
from jobs.training.data import load_training_images
from jobs.training.loop import run_to_end
from jobs.training.steps import Training
from tests.support.damage import COPY
from tests.support.damaged_matrix import COMMANDS, Target
from tests.support.shard_files import textured_image
from tests.support.tiny import tiny_checkpoint

_LOG_LINE = re.compile(r"\d\d:\d\d:\d\d ")
_NAMES_DAMAGE = re.compile("damaged|changed|left out|cannot|not a|no longer|fail|not compared|missing|not done|again")
_COUNTED = re.compile("not compared|[1-9] missing")  # said by number, as `status` and `verify` do
_MOST_LINES, _LONGEST = 6, 1000  # of an error; lines, and characters in a line
FOLDERS = {"bounding_box_train": (1, 2, 3), "query": (4, 5, 6), "bounding_box_test": (4, 5, 6, 7)}
_MINING = """\
shards: [shards/*.tar]
checkpoint: model.pth
output: RUN
device: cpu
precision: fp32
workers: 0
batch_size: 8
maps: [mim_attention, gradcam++/mim]
"""


class Outcome(Enum):
    """What became of a command on damaged files."""

    NOTICED = "noticed"
    HARMLESS = "harmless"
    SAID = "finished, and named the damage"
    WRONG = "another result with exit status 0"
    OTHER_INPUT = "another result, of an input that says something else"
    UNNAMED = "an error that does not name the file"
    LONG = "an error of many lines"
    TRACEBACK = "a traceback"


@dataclass(frozen=True, kw_only=True)
class Told:
    """How a command ended: its exit status, what it wrote to standard output and standard error, its results."""

    status: int
    out: str
    err: str
    results: dict[str, str]
    trace: str = ""


@dataclass
class Workspace:
    """The folder `work` is restored from `whole` before each case, so that all paths in its files hold."""

    root: Path
    told: dict[str, Told] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.root / "work"

    @cached_property
    def whole(self) -> Path:
        """Builds the workspace; the caller's current folder must be `work`."""
        write_images(self.work / "data")
        tiny_checkpoint(self.work / "model.pth", image_size=(64, 32))
        (self.work / "mine.yaml").write_text(_MINING)
        (self.work / "labels.json").write_text(json.dumps({"1": 0, "2": 1, "3": 2}))
        for words in (
            COMMANDS["shard again"].words,
            COMMANDS["mine again"].words,
            (*COMMANDS["mine again"].words, "--output", "REFERENCE", "--target", "feature"),
            ("finalize", "RUN"),
            ("stats", "RUN", "--by", "camid", "--block", "0/2"),
            ("stats", "RUN", "--by", "camid", "--block", "1/2"),
            ("evaluate", "RUN", "--bootstrap", "10"),
            COMMANDS["render again"].words,
        ):
            told = self.run(words, ())
            assert told.status == 0, (words, told)
        queries = pq.read_table("RUN/evaluation/queries.parquet", columns=["key"])["key"].to_pylist()
        Path("keys.txt").write_text("\n".join(queries[:2]) + "\n")
        Path("RUN/evaluation/failures.txt").write_text("\n".join(queries[:2]) + "\n")
        (log,) = Path("RUN/logs").glob("shards-*.jsonl")
        log.rename("RUN/logs/shards-node-1.jsonl")
        half_train(Path("TRAINED"))
        shutil.copytree(self.work, self.root / "whole", symlinks=True)
        return self.root / "whole"

    def restore(self) -> None:
        for path in self.work.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.copytree(self.whole, self.work, dirs_exist_ok=True)

    def undamaged(self, name: str) -> Told:
        """What the command gives on whole files."""
        if name not in self.told:
            self.restore()
            self.told[name] = self.run(COMMANDS[name].words, COMMANDS[name].results)
            assert self.told[name].status == 0, (name, self.told[name])
        return self.told[name]

    def run(self, words: Sequence[str], results: Sequence[str]) -> Told:
        """Runs a command in this process, as the program would."""
        with _as_a_process():
            done = CliRunner().invoke(main, list(words), prog_name="promptsg")
        trace = ""
        if done.exc_info is not None and not isinstance(done.exception, (SystemExit, type(None))):
            trace = "".join(traceback.format_exception(*done.exc_info))
        return Told(
            status=done.exit_code, out=done.stdout, err=done.stderr, trace=trace, results=digests(results, done.stdout)
        )

    def outcome(self, target: Target, damage: str, name: str) -> tuple[Outcome, Told]:
        """Damages a file, runs the command, and says what came of it."""
        wanted = self.undamaged(name)
        self.restore()
        path = Path(target.path)
        target.damages[damage](path, Path(target.other))
        before = digests((target.path, target.other), "")
        told = self.run(COMMANDS[name].words, COMMANDS[name].results)
        after = digests((target.path, target.other), "")
        as_damaged = {file for file, digest in after.items() if before.get(file) == digest}
        return judge(target, wanted, told, as_damaged), told


def judge(target: Target, wanted: Told, told: Told, as_damaged: set[str]) -> Outcome:
    """Compares with the undamaged run. Files that the command left as they were damaged are no results of it."""
    said = told.out + told.err
    if told.trace or "Traceback" in said or "Aborted!" in said:
        return Outcome.TRACEBACK
    named = any(name in said for name in target.names)
    if told.status:
        if not named:
            return Outcome.UNNAMED
        lines = [line for line in told.err.splitlines() if not _LOG_LINE.match(line)]
        return (
            Outcome.LONG if len(lines) > _MOST_LINES or max(map(len, lines), default=0) > _LONGEST else Outcome.NOTICED
        )
    results = {file: digest for file, digest in told.results.items() if file not in as_damaged and COPY not in file}
    if results == {file: digest for file, digest in wanted.results.items() if file not in as_damaged}:
        return Outcome.HARMLESS
    if _NAMES_DAMAGE.search(said) and (named or _COUNTED.search(said)):
        return Outcome.SAID
    return Outcome.OTHER_INPUT if target.is_input else Outcome.WRONG


def write_images(root: Path) -> None:
    """Images in the layout of Market-1501: two cameras, several images of each person."""
    number = 0
    for folder, pids in FOLDERS.items():
        for pid in pids:
            for camera in (1, 2, 3) if folder == "bounding_box_train" else (1,) if folder == "query" else (2, 3):
                for _ in range(1 if folder == "query" else 2):
                    path = root / folder / f"{pid:04d}_c{camera}s1_{number:06d}_00.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(textured_image(number, (32, 16)))
                    number += 1


@contextlib.contextmanager
def _as_a_process() -> Iterator[None]:
    """Logging as at the start of a process. Figures of numbers that other results have too are not drawn."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, root, "handlers", handlers)
        for module in ("jobs.figures", "jobs.faithfulness.report"):
            stack.enter_context(mock.patch(f"{module}.png_of", lambda *_: b""))
        stack.enter_context(mock.patch("jobs.training.folder.draw_curve", lambda rows: b""))
        yield


class _After(Drain):
    def __init__(self, training: Training, steps: int) -> None:
        self.training, self.steps = training, steps

    @property
    def requested(self) -> str | None:  # type: ignore[override]
        return "SIGTERM" if self.training.step >= self.steps else None


def half_train(output: Path) -> None:
    """A training that was stopped after two of the four steps of the command `train`."""
    config = TrainConfig(
        shards=("shards/train-*.tar",), output=output, scratch=True, image_size=(32, 16), identities=2, images_each=2,
        steps=4, device="cpu", precision="fp32",
    )  # fmt: skip
    data = load_training_images(expand_shards(config.shards), config.image_size)
    training = Training(config, data)
    assert not run_to_end(training, _After(training, 2))


def digests(results: Sequence[str], printed: str) -> dict[str, str]:
    """Result -> a digest of what it says, without the time that something took."""
    found = {}
    for result in results:
        if result == "-":
            found["-"] = re.sub(r"\d[\d.,]* ?(s|min|h|images/s)\b", "TIME", printed)
            continue
        path = Path(result)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        found.update({str(file): _digest(file) for file in files if file.is_file() and not file.is_symlink()})
    return found


def _digest(path: Path) -> str:
    if path.stat().st_mode & 0o444 == 0:
        return "no permission"
    if path.suffix == ".safetensors":  # whose tensors may be in any order
        with contextlib.suppress(SafetensorError):
            tensors = load_file(path)
            return sha256(
                b"".join(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors))
            ).hexdigest()
    content = path.read_bytes()
    if path.suffix == ".json":
        content = re.sub(rb'"(seconds|time|date)[^:]*": *[\d.e+-]+', b"", content)
    return sha256(content).hexdigest()
