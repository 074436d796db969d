"""`mine --limit`: a first try of some images, which a run without the limit goes on with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import main
from jobs.commands.mine import describe
from jobs.errors import UserError
from jobs.launch.environment import Environment
from jobs.mining.config import MineOptions, build_config
from jobs.mining.mine import mine
from jobs.mining.summary import MiningSummary
from jobs.runs.finalize import UnfinishedRunError, finalize
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import read_manifest
from jobs.runs.presence.worker_lines import read_worker
from jobs.runs.query import warn_of_unfinished
from jobs.runs.run import Run, open_run
from jobs.runs.status import status
from jobs.runs.verify import verify
from jobs.statistics.config import ShardBlock
from jobs.statistics.stats import block_shards
from tests.support.run_contents import contents_of
from tests.support.shard_files import market_key, market_shard, sample_members, textured_image, write_tar
from tests.support.tiny import tiny_checkpoint

NAMES, EACH = ("gallery-0", "query-0", "train-0"), 5
MAPS = ("mim_attention",)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32))
    for number, name in enumerate(NAMES):
        market_shard(folder / f"{name}.tar", EACH, first=10 * number)
    return folder


@pytest.fixture(scope="module")
def at_once(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("at_once") / "RUN"
    mining(inputs, output)
    return output


@pytest.fixture(scope="module")
def begun_once(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MiningSummary]:
    output = tmp_path_factory.mktemp("begun") / "RUN"
    return output, mining(inputs, output, 3)


@pytest.fixture
def begun(begun_once: tuple[Path, MiningSummary], tmp_path: Path) -> Path:
    """A run with the first 3 images of query-0."""
    return Path(shutil.copytree(begun_once[0], tmp_path / "RUN"))


def mining(
    inputs: Path,
    output: Path,
    limit: int | None = None,
    *,
    workers: int = 0,
    maps: tuple[str, ...] = MAPS,
    **options: object,
) -> MiningSummary:
    values: dict[str, object] = {"maps": maps, "precision": "fp32", "device": "cpu", "batch_size": 2}
    values |= {"checkpoint": inputs / "m.pth", "output": output, "shards": str(inputs / "*.tar"), "workers": workers}
    return mine(build_config(None, values), MineOptions(limit=limit, **options))  # type: ignore[arg-type]


def rows_of(run: Run) -> dict[str, int]:
    """How many rows the readers of a run see of each shard."""
    found = run.read_metadata(["shard"])["shard"].to_pylist()
    return {name: found.count(name) for name in sorted(set(found))}


def test_a_first_try_is_continued_to_the_run_that_is_made_at_once(inputs: Path, at_once: Path, tmp_path: Path) -> None:
    root = tmp_path / "RUN"
    first = mining(inputs, root, 8, workers=1)  # the other tests decode in the worker itself
    assert (first.done, first.shards, first.images, first.exit_status) == (1, 1, 8, 0)
    assert first.first_of == {"gallery-0": 3}
    run = open_run(root)
    assert rows_of(run) == {"gallery-0": 3, "query-0": 5}
    assert run.read_maps("mim_attention", "gallery-0").shape[0] == 3
    assert block_shards(run, None) == ["gallery-0", "query-0"]
    assert block_shards(run, ShardBlock(0, 1)) == ["query-0"]  # kept for later, when gallery-0 may be done
    whole = open_run(at_once).read_maps("mim_attention", "gallery-0")
    assert (run.read_maps("mim_attention", "gallery-0")[:2] == whole[:2]).all()  # a whole batch of it

    done = (root / "metadata" / "query-0.parquet").stat()
    rest = mining(inputs, root)
    assert (rest.done, rest.shards, rest.images) == (3, 2, 10)  # the shard that was begun, whole, and the last one
    assert (root / "metadata" / "query-0.parquet").stat() == done  # not mined again
    assert contents_of(root) == contents_of(at_once) and not (root / "first-images").exists()
    assert rows_of(run) == dict.fromkeys(NAMES, EACH)  # the run that was opened before sees it
    assert verify(root).problems == [] and finalize(root).rows == 15


def test_of_one_large_shard_there_is_a_first_picture(
    begun_once: tuple[Path, MiningSummary], begun: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not done, and every command says so; what is there can be drawn."""
    root, (_, summary) = begun, begun_once
    assert (summary.done, summary.first_of) == (0, {"query-0": 3})
    found, verdict = status(root), verify(root)
    assert (found.done, found.missing, found.begun, found.images) == (0, list(NAMES), {"query-0": 3}, 0)
    assert (verdict.intact, verdict.missing, verdict.problems, verdict.exit_status) == (0, list(NAMES), [], 3)
    with pytest.raises(UnfinishedRunError, match="3 of 3 shards are not done"):
        finalize(root)
    warn_of_unfinished(open_run(root))
    assert "3 of 3 shards are not done" in caplog.text
    left = "3 of 3 shards are not done, and their images are left out: gallery-0, train-0; of query-0 only the first"
    assert f"{left} images are used" in caplog.text
    drawn = CliRunner().invoke(main, ["render", str(root), "--style", "panel", "--workers", "1"])
    assert drawn.exit_code == 0 and len(list((root / "pictures").rglob("*.png"))) == 3, drawn.output
    damaged = root / "first-images" / "query-0.h5"
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"truncated")
    assert any("query-0" in problem for problem in verify(root).problems)


def test_a_larger_limit_goes_on_and_a_smaller_one_has_nothing_to_do(inputs: Path, at_once: Path, begun: Path) -> None:
    root = begun
    assert mining(inputs, root, 3).nothing_to_do and mining(inputs, root, 2).nothing_to_do
    assert "without --limit goes on" in describe(mining(inputs, root, 3))
    assert mining(inputs, root, 4).first_of == {"query-0": 4}
    summary = mining(inputs, root, 5)  # exactly a shard: it is done, and no other is begun
    assert (summary.done, summary.shards, summary.first_of) == (1, 1, {})
    assert not (root / "first-images").exists()
    summary = mining(inputs, root, 99)
    assert not summary.met_limit  # all was mined within it
    assert (summary.done, summary.images, mining(inputs, root, 99).nothing_to_do) == (3, 10, True)
    assert contents_of(root) == contents_of(at_once)


def test_a_first_try_deleted_by_overwrite_leaves_nothing(inputs: Path, begun: Path) -> None:
    assert mining(inputs, begun, 2, overwrite=True).first_of == {"query-0": 2}
    assert rows_of(open_run(begun)) == {"query-0": 2}


def test_a_shard_that_fails_leaves_the_limit_to_the_next_one(inputs: Path, tmp_path: Path) -> None:
    """Whether its tar breaks off, or so many of its images fail that it is refused after it was read."""
    for name in NAMES:
        shutil.copy(inputs / f"{name}.tar", tmp_path)
    shutil.copy(inputs / "m.pth", tmp_path)
    shutil.copy(inputs / "train-0.tar", tmp_path / "train-1.tar")
    whole = (tmp_path / "query-0.tar").read_bytes()
    (tmp_path / "query-0.tar").write_bytes(whole[:-11_000])
    members = sample_members(market_key(1, 1, 1), textured_image(1))
    write_tar(tmp_path / "gallery-0.tar", [*members, *sample_members(market_key(1, 1, 2), b"no image")])
    summary = mining(tmp_path, tmp_path / "RUN", 4)
    assert [report.shard for report in summary.failed_shards] == ["query-0", "gallery-0"]
    assert (summary.first_of, summary.images, summary.exit_status) == ({"train-0": 2, "train-1": 2}, 4, 3)
    assert "without --limit goes on" in describe(summary)
    assert mining(tmp_path, tmp_path / "RUN", 4).nothing_to_do
    for name in ("train-0", "train-1"):
        (tmp_path / f"{name}.tar").write_bytes(whole[:1500])
    nothing = mining(tmp_path, tmp_path / "NOTHING", 4)
    assert (nothing.images, len(nothing.failed_shards)) == (0, 4)
    assert "--limit" not in describe(nothing)  # there is no rest that it would go on with


def copied(inputs: Path, folder: Path) -> Path:
    """The inputs, of which a test may change what it likes."""
    return Path(shutil.copytree(inputs, folder / "inputs"))


def test_first_images_of_a_tar_that_changed_are_told_and_taken_anew(
    inputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, inputs = tmp_path / "RUN", copied(inputs, tmp_path)
    mining(inputs, root, 3)
    tar = inputs / "query-0.tar"
    os.utime(tar, ns=(1, 1))  # copied, for instance
    assert status(root).rewritten == ["query-0"] and status(root).changed == {} and verify(root).exit_status == 3
    assert mining(inputs, root, 3).nothing_to_do
    size = tar.stat().st_size
    other = market_shard(tar, EACH, first=70)
    assert tar.stat().st_size == size
    how = "other bytes at its beginning, middle or end"
    assert status(root).changed == {"query-0": how} and verify(root).changed == [f"query-0: {how}"]
    assert verify(root, whole_tars=True).changed == [f"query-0: {how}"]
    assert mining(inputs, root, 3).first_of == {"query-0": 3}
    assert f"query-0: its first images are removed: its tar changed since: {how}" in caplog.text
    assert status(root).changed == {} and verify(root).changed == []
    assert open_run(root).read_metadata(["key"])["key"].to_pylist() == other[:3]


def test_first_images_that_are_not_the_runs_are_removed(inputs: Path, begun: Path, tmp_path: Path) -> None:
    root, other = begun, tmp_path / "OTHER"
    mining(inputs, other, 3, maps=("gradcam/mim",))
    first = root / "first-images"
    shutil.rmtree(first)
    shutil.copytree(other / "first-images", first)
    assert mining(inputs, root, 3).first_of == {"query-0": 3}  # they do not count
    assert open_run(root).read_maps("mim_attention", "query-0").shape[0] == 3
    (first / "query-0.parquet").write_bytes(b"damaged")
    assert mining(inputs, root, 3).first_of == {"query-0": 3}
    (root / "run.json").unlink()
    with pytest.raises(UserError, match=r"has 1 published shard but no run\.json: give --overwrite"):
        mining(inputs, root)


def test_a_run_that_was_killed_before_it_removed_first_images(
    inputs: Path, at_once: Path, begun: Path, tmp_path: Path
) -> None:
    """The shard is published, and its first images are still there: they are seen by nobody, and removed later."""
    root = Path(shutil.copytree(at_once, tmp_path / "WHOLE"))
    shutil.copytree(begun / "first-images", root / "first-images")
    assert rows_of(open_run(root)) == dict.fromkeys(NAMES, EACH)
    assert (status(root).begun, status(root).done, verify(root).problems) == ({}, 3, [])
    assert mining(inputs, root).nothing_to_do and not (root / "first-images").exists()


def test_maps_are_not_added_beside_first_images(inputs: Path, begun: Path) -> None:
    """They would lack the maps, and no reader would see these of the other shards either."""
    with pytest.raises(UserError, match=r"only the first images of query-0.*without --limit and --add-maps first"):
        mining(inputs, begun, add_maps=("gradcam/mim",))
    assert not read_manifest(RunLayout(begun)).additions


def test_the_worker_says_that_its_limit_ended_it(at_once: Path, begun: Path) -> None:
    hows = []
    for root in (begun, at_once):
        (log,) = (root / "logs").glob("*.jsonl")
        found = read_worker(log)
        assert found is not None and found[1] is not None
        hows.append(found[1].how)
    assert hows == ["stopped at its --limit of 3", "done"]


def test_where_a_limit_makes_no_sense_it_is_refused(inputs: Path, at_once: Path, tmp_path: Path) -> None:
    for options in ({"extend": True}, {"add_maps": ("gradcam/mim",)}, {"retry_failed": True}):
        with pytest.raises(UserError, match="--limit stops early"):
            mining(inputs, tmp_path / "RUN", 3, **options)
    for place in (Environment(array_count=2), Environment(world_size=2, local_world_size=2)):
        with pytest.raises(UserError, match="--limit is for one process"):
            mining(inputs, tmp_path / "RUN", 3, environment=place)
    assert not (tmp_path / "RUN").exists()
    shutil.copytree(at_once, tmp_path / "RUN")
    mining(inputs, tmp_path / "RUN", add_maps=("gradcam/mim",))
    (tmp_path / "RUN" / "metadata" / "train-0.parquet").unlink()
    with pytest.raises(UserError, match="has maps that were added"):
        mining(inputs, tmp_path / "RUN", 99)


def test_what_is_printed_says_what_is_there_and_what_is_next(inputs: Path, tmp_path: Path) -> None:
    words = ["mine", "--shards", str(inputs / "*.tar"), "--checkpoint", str(inputs / "m.pth"), "--workers", "0"]
    words += ["--maps", "mim_attention", "--precision", "fp32", "--output", str(tmp_path / "my run")]
    first = CliRunner().invoke(main, [*words, "--limit", "3"])
    assert "of query-0 only the first 3 images are there, so it is not done" in first.output
    assert f"next: promptsg gallery '{tmp_path}/my run' --output '{tmp_path}/my run/first-look'" in first.output
    piped = [f"pipe:cat {inputs / 'train-0.tar'}" if word.endswith("*.tar") else word for word in words]
    piped[-1] = str(tmp_path / "PIPED")
    assert "PIPED/first-look --overwrite --allow-pipes\n" in CliRunner().invoke(main, [*piped, "--limit", "1"]).output
    rest = CliRunner().invoke(main, words)
    assert rest.exit_code == 0 and f"promptsg evaluate '{tmp_path}/my run'\n" in rest.output, rest.output
