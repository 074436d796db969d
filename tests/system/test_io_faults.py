"""The n-th write, fsync, rename, read ... of a command fails, for each n: one line, nothing damaged, and it goes on.

After each fault the same command runs again without one, and must leave what an undisturbed run leaves, to the byte.
By default one call of each kind is tried, for some commands; `-m slow` tries all.
"""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import pyarrow.parquet as pq
import pytest

from jobs.rendering.index.folder import LOCK
from jobs.rendering.index.listed import LIST
from jobs.rendering.requests import RECORD
from tests.runs.test_query import make_run
from tests.support.faults import KILL, Fault, FaultyJobs, Outcome
from tests.support.shard_files import market_shard, sample_members, textured_image, write_tar
from tests.support.tiny import tiny_checkpoint

# The errors that a kind of call fails with, and whether all later calls fail, too: a full disk stays full.
ERRORS: dict[str, tuple[tuple[int, bool], ...]] = {
    "write": ((KILL, False), (errno.EIO, False), (errno.ENOSPC, True)),
    "fsync": ((KILL, False), (errno.EIO, False)),
    "sync_folder": ((errno.EIO, False), (errno.EINVAL, True)),
    "rename": ((KILL, False), (errno.EPERM, False)),
    "read": ((errno.EIO, False),),
    "close": ((errno.EIO, False),),
    "create": ((errno.ENOSPC, True), (errno.EACCES, False)),
    "open": ((errno.EACCES, False),),
    "link": ((errno.EPERM, True),),
    "mkdir": ((errno.ENOSPC, True), (errno.EPERM, False)),
    "unlink": ((KILL, False), (errno.EPERM, False)),
    "flock": ((errno.ENOLCK, True),),
}
# A pair of a kind and an error that a command must overcome: file systems differ in what they have.
OVERCOME = {("link", errno.EPERM), ("sync_folder", errno.EINVAL), ("flock", errno.ENOLCK)}


@dataclass(frozen=True)
class Command:
    """The words of a command, in which WORK is the folder, and the paths in WORK that are its results."""

    words: str
    results: tuple[str, ...] = ()
    page: str | None = None  # nobody sees the other results without it
    progress: str | None = None  # says how far the command came, so it has its content only at the end


WITHOUT_TORCH = {
    "finalize": Command("finalize WORK/RUN", ("RUN/metadata.parquet",)),
    "stats": Command("stats WORK/RUN --by camid --output WORK/out --resamples 10", ("out",)),
    "evaluate": Command("evaluate WORK/RUN --output WORK/out --bootstrap 10", ("out",)),
    "render": Command("render WORK/RUN --output WORK/out --limit 2 --workers 1 --overwrite", ("out",)),
    "gallery": Command(
        "gallery WORK/RUN --output WORK/out --limit 3 --workers 1 --overwrite", ("out",), page="out/index.html"
    ),
    "shard": Command(
        "shard WORK/data WORK/out --dataset market1501 --images-per-shard 4", ("out",), progress="out/shards.json"
    ),
    "status": Command("status WORK/RUN"),
    "verify": Command("verify WORK/RUN"),
}
ON_CPU = "--device cpu --precision fp32"
WITH_TORCH = {
    "mine": Command(
        f"mine --shards WORK/tars/*.tar --checkpoint WORK/model.pth --output WORK/NEW {ON_CPU} --workers 0 "
        "--batch-size 8 --maps mim_attention",
        ("NEW/run.json", "NEW/maps", "NEW/metadata"),
    ),
    "train": Command(
        "train --shards WORK/train.tar --scratch --image-size 32 16 --identities 2 --images-each 2 --steps 2 "
        f"{ON_CPU} --output WORK/out",
        ("out",),
    ),
}

COMMANDS = {**WITHOUT_TORCH, **WITH_TORCH}
SAMPLED = ("evaluate", "shard")  # by default; the others take a minute together
# What the commands import when they run, so that no run of them waits for it.
IMPORTS = ("jobs.commands.finalize", "jobs.commands.evaluate", "jobs.retrieval.evaluate", "jobs.commands.render",
           "jobs.rendering.render", "jobs.commands.shard", "jobs.datasets.packing", "jobs.commands.stats",
           "jobs.statistics.stats", "jobs.statistics.report.figures", "matplotlib")  # fmt: skip
IMPORTS_WITH_TORCH = ("jobs.commands.mine", "jobs.mining.model", "jobs.mining.worker", "jobs.launch.drain",
                      "jobs.commands.train", "jobs.training.train")  # fmt: skip
# Drawing takes seconds and opens no file of the user's.
UNDRAWN = tuple(f"jobs.statistics.report.figures.{name}_figure" for name in ("mean_map", "stripes", "distributions"))
UNDRAWN = (*UNDRAWN, "jobs.figures.png_of")
UNDRAWN_WITH_TORCH = ("jobs.training.folder.draw_curve",)


class Workshop:
    """A folder with a run, its tars and a data set, which is put back as it was before each try."""

    def __init__(self, root: Path, imports: Sequence[str], undrawn: Sequence[str]) -> None:
        self.work, self.pristine = root / "work", root / "pristine"
        outside = root / "outside"
        outside.mkdir()
        self.work.mkdir()
        self._fill(self.work)
        shutil.copytree(self.work, self.pristine, copy_function=shutil.copy2)
        self.jobs = FaultyJobs(self.work, outside, imports, undrawn)
        self._undisturbed: dict[str, tuple[dict[str, str], Outcome]] = {}

    @staticmethod
    def _fill(work: Path) -> None:
        market_shard(work / "tars/query-0.tar", 10)
        market_shard(work / "tars/gallery-0.tar", 12, first=2)
        make_run(work / "RUN", work / "tars")
        members = [m for n in range(8) for m in sample_members(f"{n}", textured_image(n), pid=n // 4, split="train")]
        write_tar(work / "train.tar", members)
        for folder, number in (("bounding_box_train", 6), ("query", 2), ("bounding_box_test", 3)):
            (work / "data" / folder).mkdir(parents=True)
            for image in range(number):
                path = work / "data" / folder / f"{1 + image // 2:04d}_c{1 + image % 2}s1_{image:06d}_00.jpg"
                path.write_bytes(textured_image(image))
        tiny_checkpoint(work / "model.pth", image_size=(64, 32))

    def reset(self) -> None:
        shutil.rmtree(self.work)
        shutil.copytree(self.pristine, self.work, copy_function=shutil.copy2)

    def run(self, command: Command, faults: Sequence[Fault] = (), below: str = "") -> Outcome:
        """Runs a command whose calls fail on files below a folder."""
        return self.jobs.run(command.words.replace("WORK", str(self.work)).split(), faults, below=below)

    def undisturbed(self, command: Command) -> tuple[dict[str, str], Outcome]:
        """The files that a run without faults leaves, and how it went."""
        if command.words not in self._undisturbed:
            self.reset()
            outcome = self.run(command)
            assert outcome.status == 0, outcome.said
            self._undisturbed[command.words] = self.files(command), outcome
        return self._undisturbed[command.words]

    def files(self, command: Command) -> dict[str, str]:
        """The results, by their names, hidden files included, with a digest of what each holds."""
        found = [
            path for name in command.results for path in sorted([self.work / name, *(self.work / name).rglob("*")])
        ]
        return {str(path.relative_to(self.work)): digest(path) for path in found if path.is_file()}

    def leftovers(self) -> list[str]:
        """Temporary files and folders anywhere in the folder."""
        hidden = {path for path in self.work.rglob(".*") if path.name not in (".publish.lock", RECORD, LIST, LOCK)}
        return sorted(str(path.relative_to(self.work)) for path in hidden | {*(self.work / "scratch").rglob("*")})


def digest(path: Path) -> str:
    """What a file holds, without what two runs of the same command may differ in: versions of tools and times."""
    if path.name in ("train.json", "run.json"):
        return "json"
    if path.parent.name == "metadata" and path.suffix == ".parquet":
        return hashlib.sha256(str(pq.read_table(path).to_pylist()).encode()).hexdigest()
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            found: list[object] = []
            file.visititems(lambda _, item: found.append(item[()].tolist()) if hasattr(item, "shape") else None)
        return hashlib.sha256(str(found).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def faults_of(counts: Mapping[str, int], everything: bool) -> Iterator[Fault]:
    """Each call that a run makes, with each error of its kind; else one call of each kind with one error."""
    for kind, errors in ERRORS.items():
        if not everything and counts[kind]:
            chance = random.Random(f"{kind}{counts[kind]}")
            error, later = chance.choice(errors)
            yield Fault(kind, 1 if (kind, error) in OVERCOME else chance.randint(1, counts[kind]), error, later)
            continue
        for error, later in errors:
            last = 1 if (kind, error) in OVERCOME else counts[kind]
            yield from (Fault(kind, number, error, later) for number in range(1, min(last, counts[kind]) + 1))


def problems_of(shop: Workshop, command: Command, fault: Fault, tally: Counter[str]) -> Iterator[str]:
    """What is wrong with a command that meets a fault, and with the next one."""
    whole, _ = shop.undisturbed(command)
    shop.reset()
    outcome = shop.run(command, [fault])
    tally[f"status {outcome.status}"] += 1
    if "Traceback" in outcome.said:
        tally["tracebacks"] += 1
        yield f"traceback: {outcome.said.strip().splitlines()[-1]}"
    elif outcome.status not in (0, 1, 3) and fault.error != KILL:
        yield f"exit status {outcome.status}: {outcome.said[-300:]}"
    elif outcome.status in (1, 3) and not names_a_file(outcome.said, shop.work):
        yield f"no line that names a file: {outcome.said.strip()}"
    if outcome.status and (fault.kind, fault.error) in OVERCOME:
        yield f"not overcome: {outcome.said.strip()}"
    seen = published(shop, command)
    damaged = [name for name, content in seen.items() if whole.get(name) != content and name != command.progress]
    tally["damaged files"] += len(damaged)
    if damaged or (outcome.status == 0 and seen != whole):
        yield f"status {outcome.status}, and other files: {sorted(set(seen.items()) ^ set(whole.items()))}"
    again = shop.run(command)
    if again.status != 0:
        yield f"afterwards it ends with {again.status}: {again.said.strip()}"
    elif shop.files(command) != whole:
        yield f"afterwards it differs in {sorted(set(shop.files(command).items()) ^ set(whole.items()))}"
    if left := shop.leftovers():
        tally["leftovers"] += len(left)
        yield f"afterwards there is {', '.join(left)}"


def published(shop: Workshop, command: Command) -> dict[str, str]:
    """The results that a reader sees: without temporary files, and without what a training goes on from."""
    if command.page and not (shop.work / command.page).exists():
        return {}
    found = shop.files(command).items()
    hidden = {name for name, _ in found if Path(name).name.startswith(".") and not name.endswith((RECORD, LIST, LOCK))}
    return {name: content for name, content in found if name not in hidden and name != "out/resume.pt"}


def names_a_file(said: str, work: Path) -> bool:
    """Whether one line says what failed: of the command, or, in a summary, of a shard."""
    lines = [line for line in said.splitlines() if line.startswith("promptsg:")]
    failed = [line for line in said.splitlines() if "failed: " in line or line.startswith("damaged: ")]
    return any(str(work) in line for line in (lines or failed)) and len(lines) <= 1


def try_all(shop: Workshop, name: str, everything: bool) -> list[str]:
    """Meets the faults, and says how it went."""
    command = COMMANDS[name]
    _, outcome = shop.undisturbed(command)
    tally: Counter[str] = Counter()
    problems = []
    for fault in faults_of(outcome.counts, everything):
        tally["faults"] += 1
        problems += [f"{name}: {fault}: {problem}" for problem in problems_of(shop, command, fault, tally)]
    print(f"{name}: {dict(tally)}, {len(problems)} problems")
    return problems


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    found = Workshop(tmp_path_factory.mktemp("faults"), IMPORTS, UNDRAWN)
    yield found
    found.jobs.close()


@pytest.fixture(scope="module")
def shop_with_torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    found = Workshop(tmp_path_factory.mktemp("faults"), (*IMPORTS, *IMPORTS_WITH_TORCH), UNDRAWN_WITH_TORCH)
    yield found
    found.jobs.close()


@pytest.mark.parametrize("name", SAMPLED)
def test_a_call_that_fails_costs_one_line_and_no_result(shop: Workshop, name: str) -> None:
    assert try_all(shop, name, everything=False) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WITHOUT_TORCH))
def test_each_call_that_fails_costs_one_line_and_no_result(shop: Workshop, name: str) -> None:
    assert try_all(shop, name, everything=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WITH_TORCH))
def test_each_call_of_mining_and_training(shop_with_torch: Workshop, name: str) -> None:
    assert try_all(shop_with_torch, name, everything=True) == []


@pytest.mark.parametrize(
    "name",
    ["evaluate", "status", *(pytest.param(name, marks=pytest.mark.slow) for name in ("render", "stats", "gallery"))],
)
def test_a_run_that_may_only_be_read_is_read(shop: Workshop, name: str) -> None:
    """Everything that would change a file of the run fails as on a read-only file system."""
    command = COMMANDS[name]
    whole, _ = shop.undisturbed(command)
    shop.reset()
    faults = [Fault(kind, 1, errno.EROFS, True) for kind in ("create", "mkdir", "rename", "unlink", "link", "write")]
    outcome = shop.run(command, faults, below="RUN")
    assert outcome.status == 0, outcome.said
    assert shop.files(command) == whole
