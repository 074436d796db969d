"""`mine --extend`: shards that join a run later, with the same fingerprint and the same rows as in a run at once."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.mining.config import MineOptions, build_config
from jobs.mining.mine import mine
from jobs.mining.summary import MiningSummary
from jobs.runs.finalize import finalize
from jobs.runs.growth.run_json import add_shards
from jobs.runs.integrity.run_json import refuse_replaced
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, create_manifest, read_manifest
from jobs.runs.request import RecordedShard, RequestedSettings, ResolvedSettings, RunRequest, canonical_sha256
from jobs.runs.run import open_run
from jobs.runs.status import status
from jobs.runs.verify import verify
from tests.support.made_runs import made_samples, made_shard
from tests.support.run_contents import contents_of
from tests.support.shard_files import market_shard
from tests.support.tiny import tiny_checkpoint

EXTEND = MineOptions(extend=True)
FROZEN = Path(__file__).parents[1] / "data" / "run-schema-1" / "RUN"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tiny_checkpoint(folder / "m.pth", image_size=(64, 32))
    for number, name in enumerate("abcd"):
        market_shard(folder / f"{name}.tar", 5, first=10 * number)
    return folder


def mining(inputs: Path, output: Path, names: str, options: MineOptions = EXTEND, **settings: object) -> MiningSummary:
    values: dict[str, object] = {"maps": ("mim_attention",), "workers": 0, "precision": "fp32", "device": "cpu"}
    values |= {"checkpoint": inputs / "m.pth", "output": output, "shards": [str(inputs / f"{n}.tar") for n in names]}
    return mine(build_config(None, {**values, **settings}), options)


def test_an_extended_run_is_that_of_the_whole_list(inputs: Path, tmp_path: Path) -> None:
    at_once, grown = tmp_path / "ALL", tmp_path / "GROWN"
    mining(inputs, at_once, "abcd", MineOptions())
    mining(inputs, grown, "bd", MineOptions())
    first = read_manifest(RunLayout(grown))
    finalize(grown)
    with pytest.raises(UserError, match=r"1 shard is new \(a\).* give --extend to add the new shards"):
        mining(inputs, grown, "abd", MineOptions())
    assert mining(inputs, grown, "abd").shards == 1
    assert any("before it grew" in problem for problem in verify(grown).problems)
    assert mining(inputs, grown, "abcd").shards == 1
    assert mining(inputs, grown, "abcd").nothing_to_do and mining(inputs, grown, "abcd", MineOptions()).nothing_to_do
    finalize(grown)
    now = read_manifest(RunLayout(grown))
    assert (now.fingerprint, now.run_id) == (first.fingerprint, first.run_id)
    assert [(shard.name, shard.added) for shard in now.recorded_shards] == [
        ("a", 1),
        ("b", None),
        ("c", 2),
        ("d", None),
    ]
    assert now.list_fingerprint != now.fingerprint == first.list_fingerprint
    assert contents_of(grown) == contents_of(at_once)
    verdict, found = verify(grown, whole_tars=True), status(grown)
    assert (verdict.problems, verdict.missing, verdict.intact, verdict.images) == ([], [], 4, 20)
    assert (found.done, found.shards, found.images) == (4, 4, 20)
    assert open_run(grown).read_metadata(["key"]).num_rows == 20


def test_shards_that_are_gone_or_changed_are_refused_by_name(inputs: Path, tmp_path: Path) -> None:
    tars = tmp_path / "tars"
    shutil.copytree(inputs, tars)
    mining(tars, tmp_path / "RUN", "ab", MineOptions())
    before = (tmp_path / "RUN" / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"1 shard is no longer listed \(b\)"):
        mining(tars, tmp_path / "RUN", "ac")
    with pytest.raises(UserError, match="target was"):
        mining(tars, tmp_path / "RUN", "abc", target="feature")
    market_shard(tars / "b.tar", 9, first=50)
    with pytest.raises(UserError, match=r"1 shard changed \(b"):
        mining(tars, tmp_path / "RUN", "abc")
    assert (tmp_path / "RUN" / "run.json").read_bytes() == before
    for options in (MineOptions(extend=True, overwrite=True), MineOptions(extend=True, add_maps=("gradcam/mim",))):
        with pytest.raises(UserError, match="exclude each other"):
            mining(tars, tmp_path / "RUN", "abc", options)


def request_for(names: str) -> RunRequest:
    shards = tuple(RecordedShard(name=name, url=f"/nowhere/{name}.tar", size=1000) for name in names)
    return RunRequest(asked=RequestedSettings(maps=("mim_attention",)), shards=shards)


def made(root: Path, names: str) -> Manifest:
    return create_manifest(RunLayout(root), request_for(names), ResolvedSettings(precision="fp32"))


def test_many_commands_that_extend_at_once_agree(tmp_path: Path) -> None:
    layout, first = RunLayout(tmp_path), made(tmp_path, "ac")
    with ThreadPoolExecutor(8) as threads:
        grown = list(threads.map(lambda _: add_shards(layout, first, request_for("abcd").shards), range(8)))
    assert all(one == grown[0] for one in grown)
    assert [shard.added for shard in grown[0].recorded_shards] == [None, 1, None, 1]
    with pytest.raises(UserError, match=r"does not list \(b\)"):
        add_shards(layout, first, request_for("acde").shards)
    assert read_manifest(layout) == grown[0]


def test_a_worker_with_the_older_list_goes_on(tmp_path: Path) -> None:
    layout, older = RunLayout(tmp_path), made(tmp_path, "ab")
    made_shard(tmp_path, older, "a", made_samples(4))
    newer = add_shards(layout, older, request_for("abc").shards)
    refuse_replaced(layout, older)
    made_shard(tmp_path, older, "b", made_samples(4))
    made_shard(tmp_path, newer, "c", made_samples(4))
    assert open_run(tmp_path).published() == ["a", "b", "c"]
    assert verify(tmp_path).problems == []


def test_a_run_that_was_replaced_is_not_extended(tmp_path: Path) -> None:
    layout, older = RunLayout(tmp_path), made(tmp_path, "ab")
    layout.manifest.unlink()
    with pytest.raises(UserError, match="was deleted"):
        add_shards(layout, older, request_for("abc").shards)
    assert not layout.manifest.exists()
    made(tmp_path, "ab")
    with pytest.raises(UserError, match="replaced by another run"):
        add_shards(layout, older, request_for("abc").shards)


def test_a_run_of_the_first_version_is_extended(tmp_path: Path) -> None:
    """It keeps its columns, its fingerprint, and a run.json without a hash of itself."""
    shutil.copytree(FROZEN, tmp_path / "RUN")
    layout = RunLayout(tmp_path / "RUN")
    older = read_manifest(layout)
    new = RecordedShard(name="later", url="/nowhere/later.tar", size=1000)
    newer = add_shards(layout, older, [*older.recorded_shards, new])
    assert (newer.schema_version, newer.version_of_columns, newer.sha256) == (4, 1, None)
    assert newer.columns == older.columns and newer.measured_placement is None
    made_shard(layout.root, newer, "later", made_samples(4))
    run = open_run(layout.root)
    assert run.published() == ["gallery-000000", "later", "query-000000"]
    assert run.metadata().to_table().num_rows == 14 and verify(layout.root).problems == []
    assert finalize(layout.root).rows == 14


def test_earlier_programs_refuse_a_grown_run_and_a_forged_list_is_found(tmp_path: Path) -> None:
    layout, older = RunLayout(tmp_path), made(tmp_path, "ab")
    assert json.loads(layout.manifest.read_text())["schema_version"] == 3
    add_shards(layout, older, request_for("abc").shards)
    content = json.loads(layout.manifest.read_text())
    assert (content["schema_version"], content["columns_version"]) == (4, 3)  # programs that read 1 to 3 refuse it
    assert content.pop("sha256") == canonical_sha256(content)
    content["shards"][2]["size"] = 7
    layout.manifest.write_text(json.dumps({**content, "sha256": canonical_sha256({**content, "x": 1})}))
    with pytest.raises(UserError, match="another content than was written"):
        read_manifest(layout)
    del content["shards"][0]["size"]
    content["shards"][0]["size"] = 7
    layout.manifest.write_text(json.dumps({**content, "sha256": canonical_sha256(content)}))
    with pytest.raises(UserError, match="was altered"):
        read_manifest(layout)
