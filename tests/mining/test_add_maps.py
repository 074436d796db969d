"""`mine --add-maps`: maps that join a run later are those of a run at once, and nothing stored before is touched."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.commands.mine import describe
from jobs.commands.status import command as status_command
from jobs.errors import UserError
from jobs.launch.environment import Environment
from jobs.mining.config import MineOptions, build_config
from jobs.mining.mine import mine
from jobs.mining.summary import MiningSummary
from jobs.runs.finalize import finalize
from jobs.runs.growth.added_output import AddedOutput
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import read_manifest
from jobs.runs.query import RowSelection, select_rows
from jobs.runs.run import open_run
from jobs.runs.status import status
from jobs.runs.verify import verify
from jobs.statistics.accumulate import accumulate
from jobs.statistics.chosen import choose_images
from jobs.statistics.config import ShardBlock, StatsConfig
from jobs.statistics.question import make_question
from jobs.statistics.stats import stats
from jobs.statistics.stored import stored_columns
from tests.support.run_contents import contents_of
from tests.support.shard_files import market_key, market_shard, sample_members, textured_image, write_tar
from tests.support.tiny import tiny_checkpoint

FIRST, MORE = ("mim_attention", "gradcam/mim"), ("gradcam++/mim", "hirescam/vit_proj")
PLAIN, ADD = MineOptions(), MineOptions(add_maps=MORE)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and three shards, of which b has an image that does not decode, and a sample without a pid."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32), num_classes=3)
    for number, name in enumerate("ac"):
        market_shard(folder / f"{name}.tar", 6, first=10 * number)
    members = []
    for number in range(7):
        image = b"not an image" if number == 2 else textured_image(100 + number)
        members += sample_members(market_key(number % 3 + 1, 1, 50 + number), image, split="train")
    write_tar(folder / "b.tar", [*members, *sample_members("street", textured_image(99), split="train")])
    return folder


def mining(
    inputs: Path, output: Path, options: MineOptions = PLAIN, names: str = "abc", **settings: object
) -> MiningSummary:
    values: dict[str, object] = {"maps": FIRST, "workers": 0, "precision": "fp32", "device": "cpu", "batch_size": 4}
    values |= {"checkpoint": inputs / "m.pth", "output": output, "shards": [str(inputs / f"{n}.tar") for n in names]}
    return mine(build_config(None, {**values, "max_failed_fraction": 0.2, **settings}), options)


def digests(run: Path, folder: str = "maps") -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((run / folder).iterdir())}


@pytest.fixture(scope="module")
def first(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run before anything is added."""
    run = tmp_path_factory.mktemp("first") / "RUN"
    assert mining(inputs, run).exit_status == 0
    return run


@pytest.fixture(scope="module")
def grown(inputs: Path, first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with the maps, not to be changed."""
    run = tmp_path_factory.mktemp("grown") / "RUN"
    shutil.copytree(first, run)
    summary = mining(inputs, run, ADD)
    assert (summary.exit_status, summary.shards, summary.done, summary.total) == (0, 3, 3, 3)
    assert "3 of 3 shards of" in describe(summary) and "have gradcam++/mim, hirescam/vit_proj" in describe(summary)
    return run


@pytest.fixture
def half(inputs: Path, first: Path, tmp_path: Path) -> Path:
    """A run with the maps on the first of its three shards."""
    run = tmp_path / "HALF"
    shutil.copytree(first, run)
    one_of_three = Environment(array_index=0, array_count=3)
    assert mining(inputs, run, MineOptions(add_maps=MORE, environment=one_of_three)).done == 1
    return run


def test_the_run_is_that_of_all_maps_at_once(inputs: Path, first: Path, grown: Path, tmp_path: Path) -> None:
    mining(inputs, tmp_path / "ALL", maps=(*FIRST, *MORE))
    assert contents_of(grown) == contents_of(tmp_path / "ALL")
    assert digests(grown) == digests(first) and len(digests(grown, "maps-2")) == 3
    opened, whole = open_run(grown), open_run(tmp_path / "ALL")
    assert opened.maps == whole.maps == (*FIRST, *MORE)
    assert opened.schema == whole.schema and opened.added[0].is_complete
    assert opened.metadata().to_table() == whole.metadata().to_table()
    rows = select_rows(opened, RowSelection(where="gradcampp_mim_max > 0", order_by="hirescam_vit_proj_entropy DESC"))
    again = select_rows(whole, RowSelection(where="gradcampp_mim_max > 0", order_by="hirescam_vit_proj_entropy DESC"))
    assert rows == again and len(rows) > 10
    for name in (*FIRST, *MORE):
        assert (opened.maps_of(name, rows) == whole.maps_of(name, rows)).all()
    verdict = verify(grown, whole_tars=True)
    assert (verdict.problems, verdict.changed, verdict.intact, verdict.images) == ([], [], 3, 20)
    assert status(grown).zero_maps == status(tmp_path / "ALL").zero_maps and status(grown).damaged == {}
    sums = []
    shutil.copytree(grown, tmp_path / "GROWN")
    for run in (tmp_path / "GROWN", tmp_path / "ALL"):
        assert finalize(run).rows == 20 and verify(run).problems == []
        question = make_question(open_run(run))
        columns = stored_columns(open_run(run), question.maps)
        part = accumulate(choose_images(open_run(run), question, list("abc"), columns))
        sums.append([part.clusters.of_map(k, slice(0, 100)) for k in range(len(question.maps))])
    for one, other in zip(*sums, strict=True):
        for name in ("sums", "counts", "zero", "not_finite", "share"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert len(sums[0]) == 4


def test_the_same_command_again_has_nothing_to_do(inputs: Path, grown: Path) -> None:
    before = digests(grown, "metadata")
    assert mining(inputs, grown, ADD).nothing_to_do
    assert mining(inputs, grown, MineOptions(add_maps=MORE[::-1])).nothing_to_do
    assert mining(inputs, grown).nothing_to_do and digests(grown, "metadata") == before
    for names, wanted in (
        (FIRST[:1], "has mim_attention already"),
        (MORE[:1], "was added to .* before: go on with that by --add-maps gradcam\\+\\+/mim --add-maps hirescam"),
    ):
        with pytest.raises(UserError, match=wanted):
            mining(inputs, grown, MineOptions(add_maps=names))


def test_maps_on_some_shards_are_left_out_and_said(
    inputs: Path, half: Path, grown: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    run = open_run(half)
    assert run.maps == FIRST and run.schema == run.manifest.columns
    assert len(run.metadata().to_table()) == 20 and len(select_rows(run)) == 20
    said = "gradcam++/mim, hirescam/vit_proj: added to 1 of 3 done shards, not to b, c; go on with `promptsg mine ..."
    with pytest.raises(UserError) as refused:
        stats(StatsConfig(run=half, output=tmp_path / "s", maps=("gradcam++/mim",)))
    assert f"has 'gradcam++/mim' not everywhere: {said}" in str(refused.value)
    with caplog.at_level(logging.WARNING):
        block = ShardBlock(index=0, count=1)
        assert stats(StatsConfig(run=half, output=tmp_path / "s", block=block)).images == 19
    assert said in caplog.text
    assert said in CliRunner().invoke(status_command, [str(half)]).output
    assert json.loads(CliRunner().invoke(status_command, [str(half), "--json"]).output)["added"][0]["lacking"] == [
        "b",
        "c",
    ]
    assert run.read_maps("gradcam++/mim", "a").shape == (6, 16, 8)
    with pytest.raises(UserError, match="not added to the shard 'b' yet"):
        run.read_maps("gradcam++/mim", "b")
    caplog.clear()
    assert finalize(half).rows == 20 and verify(half).problems == [] and said in caplog.text
    assert mining(inputs, half, ADD).shards == 2
    assert any("before it grew" in problem for problem in verify(half).problems)
    (half / "metadata.parquet").unlink()
    assert contents_of(half) == contents_of(grown) and open_run(half).maps == (*FIRST, *MORE)


def test_a_run_of_another_request_gets_no_maps(inputs: Path, first: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    shutil.copytree(first, run)
    tiny_checkpoint(tmp_path / "other.pth", seed=1, image_size=(64, 32), num_classes=3)
    for wrong, wanted in (
        ({"checkpoint": tmp_path / "other.pth"}, "checkpoint_sha256 was"),
        ({"target": "feature"}, "target was"),
        ({"names": "ab"}, r"no longer listed \(c\)"),
    ):
        with pytest.raises(UserError, match=wanted):
            mining(inputs, run, ADD, **wrong)
    with pytest.raises(UserError, match="is not a run"):
        mining(inputs, tmp_path / "NONE", ADD)
    assert not read_manifest(RunLayout(run)).additions and not (run / "maps-2").exists()


def test_the_tars_must_be_those_that_were_mined(inputs: Path, first: Path, tmp_path: Path) -> None:
    tars, run = tmp_path / "tars", tmp_path / "RUN"
    shutil.copytree(inputs, tars)
    shutil.copytree(first, run)
    market_shard(tars / "c.tar", 6, first=30)
    with pytest.raises(UserError, match=r"1 shard of .* changed after being mined"):
        mining(tars, run, ADD)
    assert not (run / "maps-2").exists()


def test_damage_in_added_files_is_found(inputs: Path, grown: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    shutil.copytree(grown, run)
    path = run / "maps-2" / "b.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert verify(run).problems == ["b: maps-2: b.h5 has other bytes than were written (SHA-256 differs)"]
    path.write_bytes(content[:-8])
    assert list(status(run).damaged) == ["b"] and str(path) in status(run).damaged["b"]
    with pytest.raises(UserError, match=r"bytes, .* were written"):
        open_run(run).read_maps("gradcam++/mim", "b")
    with pytest.raises(UserError, match=r"put the right file back, or delete .*b\.parquet"):
        mining(inputs, run, ADD)
    other = (run / "maps-2" / "a.h5").read_bytes()
    path.write_bytes(other.ljust(len(content), b"\0"))  # of the same size: found when it is opened
    assert len(other) <= len(content) and verify(run).exit_status == 1
    with pytest.raises(UserError, match="holds the maps of the shard 'a'"):
        open_run(run).read_maps("gradcam++/mim", "b")
    path.unlink()
    assert "is gone" in verify(run).problems[0] and "is gone" in status(run).damaged["b"]
    (run / "metadata" / "b.parquet").unlink()  # as the message says
    assert mining(inputs, run).shards == 1 and open_run(run).maps == FIRST
    assert mining(inputs, run, ADD).shards == 1
    assert contents_of(run) == contents_of(grown) and verify(run).problems == []


def test_overwrite_removes_added_maps(inputs: Path, grown: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    shutil.copytree(grown, run)
    (run / "maps-2" / "notes.txt").write_text("mine")
    summary = mining(inputs, run, MineOptions(overwrite=True), names="a")
    assert any("maps-2" in what for what in summary.deleted)
    assert [path.name for path in (run / "maps-2").iterdir()] == ["notes.txt"]
    assert open_run(run).maps == FIRST and verify(run).problems == []


def test_mining_shards_again_or_more_of_them_leaves_maps_to_add(inputs: Path, grown: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    shutil.copytree(grown, run)
    assert mining(inputs, run, MineOptions(retry_failed=True)).shards == 1
    opened = open_run(run)
    assert opened.maps == FIRST and opened.added[0].lacking == ("b",) and verify(run).problems == []
    assert mining(inputs, run, ADD).shards == 1
    shutil.copy(inputs / "m.pth", tmp_path / "m.pth")
    for name in "abc":
        shutil.copy2(inputs / f"{name}.tar", tmp_path)
    market_shard(tmp_path / "d.tar", 4, first=70)
    assert mining(tmp_path, run, MineOptions(extend=True), names="abcd").shards == 1
    assert open_run(run).added[0].lacking == ("d",) and open_run(run).maps == FIRST
    assert mining(tmp_path, run, ADD, names="abcd").shards == 1
    assert mining(tmp_path, run, MineOptions(add_maps=("gradcam/classifier",)), names="abcd").shards == 4
    mining(tmp_path, tmp_path / "ALL", names="abcd", maps=(*FIRST, *MORE, "gradcam/classifier"))
    assert contents_of(run) == contents_of(tmp_path / "ALL") and verify(run).problems == []
    assert open_run(run).maps == open_run(tmp_path / "ALL").maps


def test_images_without_a_target_stay_without_its_maps(inputs: Path, tmp_path: Path) -> None:
    """`street` has no pid, and so no label: the row has the map that needs no target, and not the others."""
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"1": 0, "2": 1, "3": 2}))
    given = {"target": "label", "label_map": labels, "names": "b"}
    mining(inputs, tmp_path / "ALL", maps=("gradcam/mim", "mim_attention", "gradcam++/mim"), **given)
    run = tmp_path / "RUN"
    mining(inputs, run, maps=("gradcam/mim",), **given)
    summary = mining(
        inputs, run, MineOptions(add_maps=("mim_attention", "gradcam++/mim")), maps=("gradcam/mim",), **given
    )
    assert (summary.exit_status, summary.failed_images) == (0, 0)
    assert contents_of(run) == contents_of(tmp_path / "ALL") and verify(run).problems == []


def test_shards_that_are_not_mined_are_said_and_give_status_3(
    inputs: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("jobs.mining.limits.shared_gpu.tell_if_shared", lambda device, *_: told.append(device.type))
    run = tmp_path / "RUN"
    shutil.copytree(first, run)
    (run / "metadata" / "b.parquet").unlink()
    summary = mining(inputs, run, ADD)
    assert (summary.done, summary.total, summary.not_mined, summary.exit_status) == (2, 3, 1, 3)
    assert "2 of 3 shards" in describe(summary) and "1 shard is not mined yet" in describe(summary)
    again = mining(inputs, run, ADD)
    assert (again.nothing_to_do, again.done, again.exit_status) == (True, 2, 3) and told == ["cpu"]
    assert mining(inputs, run).shards == 1 and mining(inputs, run, ADD).exit_status == 0
    assert "not mined" not in describe(mining(inputs, run, ADD))


def test_images_that_lack_the_maps_get_them_by_retry_failed(
    inputs: Path, first: Path, grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pass finds another class for some images of c; b, of which an image has failed, is left as it is."""
    run, again = tmp_path / "RUN", MineOptions(add_maps=MORE, retry_failed=True)
    shutil.copytree(first, run)
    with monkeypatch.context() as patched:
        patched.setattr(
            AddedOutput,
            "_of_other_classes",
            lambda self, rows, predicted: np.full(len(rows), self.shard == "c") & (rows == 1),
        )
        assert mining(inputs, run, ADD).failed_images == 1
    assert open_run(run).added[0].failed == {"other_prediction": 1}
    assert mining(inputs, run, ADD).nothing_to_do
    said = CliRunner().invoke(status_command, [str(run)]).output
    assert "1 image other_prediction: without these maps" in said and "--add-maps and --retry-failed" in said
    summary = mining(inputs, run, again)
    assert (summary.shards, summary.failed_images, summary.exit_status) == (1, 0, 0)
    assert contents_of(run) == contents_of(grown) and digests(run) == digests(first)
    assert verify(run).problems == [] and mining(inputs, run, again).nothing_to_do
