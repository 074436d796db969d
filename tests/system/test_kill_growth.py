"""SIGKILL at random instants while a run grows: the end is a run made at once, and in between every reader is right.

3 kills by default, 20 with `-m slow`, each while shards are added and while maps are; `kills` counts those that hit.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.runs.run import open_run
from jobs.runs.status import status
from jobs.runs.verify import verify
from tests.support.run_contents import contents_of
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint
from tests.system.test_kill import Jobs, leftovers

SHARDS, IMAGES, EARLY = 8, 8, 3
FIRST, MORE = ("mim_attention",), ("gradcam++/mim", "gradcam/vit_proj")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("growth")
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32))
    for number in range(SHARDS):
        market_shard(folder / f"train-{number:06d}.tar", IMAGES, first=IMAGES * number)
    return folder


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    jobs = Jobs(tmp_path_factory.mktemp("scratch"))
    yield jobs
    jobs.close()


def words(
    inputs: Path, output: Path, *more: object, shards: int = SHARDS, maps: tuple[str, ...] = FIRST
) -> list[object]:
    listed = [word for number in range(shards) for word in ("--shards", inputs / f"train-{number:06d}.tar")]
    named = [word for name in maps for word in ("--maps", name)]
    return [
        "mine", *listed, "--checkpoint", inputs / "m.pth", "--output", output, *named, "--workers", 0,
        "--batch-size", 3, "--precision", "fp32", "--device", "cpu", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def at_once(inputs: Path, jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all shards and all maps, undisturbed."""
    output = tmp_path_factory.mktemp("whole") / "RUN"
    jobs.wait(jobs.start(*words(inputs, output, maps=(*FIRST, *MORE))))
    return output


def batter(
    jobs: Jobs,
    command: list[object],
    start: Path,
    output: Path,
    complete: Callable[[], bool],
    kills: int,
    seconds: float,
) -> None:
    """Starts the command and kills it at a random instant until `kills` have hit; then lets it finish.

    A job takes about so many `seconds`. Where it was complete before the kills ran out, it begins again from a copy of
    `start`.
    """
    chance, hit, late, begun = random.Random(kills), 0, 0, 0
    shutil.copytree(start, output)
    while hit < kills:
        process = jobs.start(*command)
        time.sleep(chance.uniform(0.02, seconds))
        ended = jobs.ended(process)
        jobs.kill(process)
        jobs.wait(process, 30)
        hit, late = hit + (not ended), late + ended
        verdict = verify(output)
        assert (verdict.problems, status(output).damaged) == ([], {})
        run = open_run(output)
        assert run.metadata().to_table().num_rows == IMAGES * len(run.published())
        if complete() and hit < kills:
            begun += 1
            shutil.rmtree(output)
            shutil.copytree(start, output)
    jobs.wait(jobs.start(*command))
    assert complete()
    print(f"{hit} kills while it ran, {late} after its end; begun again {begun} times")


def grow_under_kills(inputs: Path, jobs: Jobs, at_once: Path, folder: Path, kills: int) -> None:
    early, longer, output = folder / "EARLY", folder / "LONGER", folder / "RUN"
    began = time.monotonic()
    jobs.wait(jobs.start(*words(inputs, early, shards=EARLY)))
    seconds = 0.7 * (time.monotonic() - began)
    assert status(early).done == EARLY
    before = {path.name: path.read_bytes() for path in (early / "maps").iterdir()}
    batter(
        jobs, words(inputs, longer, "--extend"), early, longer, lambda: status(longer).done == SHARDS, kills, seconds
    )

    def complete() -> bool:
        added = status(output).added
        return bool(added) and added[0].is_complete

    add = words(inputs, output, *(word for name in MORE for word in ("--add-maps", name)))
    batter(jobs, add, longer, output, complete, kills, seconds)
    assert contents_of(output) == contents_of(at_once)
    assert {path.name: path.read_bytes() for path in (output / "maps").iterdir() if path.name in before} == before
    run, verdict = open_run(output), verify(output, whole_tars=True)
    assert run.maps == (*FIRST, *MORE) and run.schema == open_run(at_once).schema
    assert (verdict.problems, verdict.missing, verdict.changed, verdict.intact) == ([], [], [], SHARDS)
    assert leftovers(jobs, output) == []


def test_a_run_grows_under_kills(inputs: Path, jobs: Jobs, at_once: Path, tmp_path: Path) -> None:
    grow_under_kills(inputs, jobs, at_once, tmp_path, kills=3)


@pytest.mark.slow
def test_a_run_grows_under_twenty_kills(inputs: Path, jobs: Jobs, at_once: Path, tmp_path: Path) -> None:
    grow_under_kills(inputs, jobs, at_once, tmp_path, kills=20)
