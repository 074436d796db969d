"""Readers of a run while the shard of which `mine --limit` took the first images becomes done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.arrays import Float32Array
from jobs.errors import UserError
from jobs.runs import layout as layout_module
from jobs.runs import status as status_module
from jobs.runs import verify as verify_module
from jobs.runs.evaluation.query_scores import EvaluatedState
from jobs.runs.footer import ShardFooter
from jobs.runs.integrity.belonging import check_pair
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest
from jobs.runs.query import RowSelection, count_by_status, keys_in_several_shards, select_rows, warn_of_unfinished
from jobs.runs.rows.lookup import rows_at, rows_by_key, shard_rows
from jobs.runs.run import Run, open_run
from jobs.runs.shard_check import CheckedShard, check_shard
from jobs.shards.samples import Sample
from jobs.statistics.chosen import choose_images
from jobs.statistics.map_slices import read_slices
from jobs.statistics.question import make_question
from tests.support.made_runs import made_manifest, made_shard

BEGUN, DONE, MAP = "query-0", "gallery-0", "mim_attention"
FIRST, ALL = 3, 8


def samples_of(shard: str, count: int) -> list[Sample]:
    return [Sample(key=f"{shard}/{row}", tar_index=row, pid=row, camid=0, split="query") for row in range(count)]


def maps_of_shard(shard: str) -> Float32Array:
    return np.random.default_rng(len(shard)).random((ALL, 16, 8)).astype(np.float32)


def publish(root: Path, manifest: Manifest, shard: str = BEGUN, count: int = ALL, *, only_first: bool = False) -> None:
    arrays: dict[str, Any] = {MAP: maps_of_shard(shard)[:count]}
    arrays["features"] = np.arange(12 * count, dtype=np.float32).reshape(count, 12)
    made_shard(root, manifest, shard, samples_of(shard, count), only_first=only_first, **arrays)


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Path, Manifest]:
    """A run with a done shard and the first three images of another."""
    root = tmp_path / "RUN"
    manifest = made_manifest(root, [DONE, BEGUN, "train-0"])
    publish(root, manifest, DONE)
    publish(root, manifest, count=FIRST, only_first=True)
    assert open_run(root).layout.begun == {BEGUN}
    return root, manifest


def after(run: Run, monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], None]) -> None:
    """Does something once after the run has called its own method of this name."""
    method, left = getattr(run, name), [act]

    def followed(*values: object) -> object:
        result = method(*values)
        if left:
            left.pop()()
        return result

    monkeypatch.setattr(run, name, followed)


def is_whole(run: Run) -> bool:
    run.refuse_damaged([BEGUN])
    return True


PLACES = pa.table({"shard": [BEGUN, BEGUN], "tar_index": [2, 0], "h5_row": [2, 0]})
READERS: dict[str, Callable[[Run], object]] = {
    "read_maps": lambda run: (run.read_maps(MAP, BEGUN)[:FIRST] == maps_of_shard(BEGUN)[:FIRST]).all(),
    "maps_of": lambda run: (run.maps_of(MAP, PLACES) == maps_of_shard(BEGUN)[[2, 0]]).all(),
    "read_features": lambda run: run.read_features(BEGUN, [2]).tolist() == [list(range(24, 36))],
    "read_keys": lambda run: run.read_keys(BEGUN)[:FIRST] == [f"{BEGUN}/{row}" for row in range(FIRST)],
    "rows_at": lambda run: rows_at(run, PLACES)["key"].to_pylist() == [f"{BEGUN}/2", f"{BEGUN}/0"],
    "rows_by_key": lambda run: rows_by_key(run, [(BEGUN, f"{BEGUN}/1")])["h5_row"].to_pylist() == [1],
    "shard_rows": lambda run: shard_rows(run, BEGUN, ["pid"])["pid"].to_pylist()[:FIRST] == [0, 1, 2],
    "read_metadata": lambda run: run.read_metadata(["pid"], [BEGUN])["pid"].to_pylist()[:FIRST] == [0, 1, 2],
    "refuse_damaged": is_whole,
    "heads": lambda run: run.heads == 0,
    "state": lambda run: EvaluatedState.of(run).shards == 2,
    "choose": lambda run: len(select_rows(run, RowSelection(where=f"shard = '{BEGUN}'"), columns=["key"])) == ALL,
}


@pytest.mark.parametrize("reader", READERS)
def test_an_open_run_reads_on_when_the_shard_is_mined_whole(begun: tuple[Path, Manifest], reader: str) -> None:
    run = open_run(begun[0])
    assert len(run.read_maps(MAP, BEGUN)) == FIRST and len(shard_rows(run, BEGUN, None)) == FIRST
    publish(*begun)
    assert not run.layout.first_images.exists()
    assert READERS[reader](run)
    assert run.published() == [DONE, BEGUN] and len(run.read_maps(MAP, BEGUN)) == ALL


@pytest.mark.parametrize("reader", ["read_maps", "read_features", "rows_at", "rows_by_key", "shard_rows"])
def test_the_shard_may_become_done_between_the_check_and_the_reading(
    begun: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    run = open_run(begun[0])
    after(run, monkeypatch, "require_files", lambda: publish(*begun))
    assert READERS[reader](run) and not run.layout.begun


def test_the_shard_may_become_done_between_the_listing_and_the_look_at_its_files(
    begun: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(begun[0])
    after(run, monkeypatch, "published", lambda: publish(*begun))
    assert run.read_metadata(["key"]).num_rows == 2 * ALL
    assert [Path(path).parent.name for path in run.metadata_files()] == ["metadata", "metadata"]


@pytest.mark.parametrize(
    "query",
    [
        lambda run: len(select_rows(run, RowSelection(order_by="key DESC"))) == 2 * ALL,
        lambda run: count_by_status(run) == {"ok": 2 * ALL},
        lambda run: keys_in_several_shards(run, [f"{BEGUN}/0"]) == set(),
    ],
)
def test_the_shard_may_become_done_before_its_file_is_queried(
    begun: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch, query: Callable[[Run], bool]
) -> None:
    run = open_run(begun[0])
    after(run, monkeypatch, "metadata_files", lambda: publish(*begun))
    assert query(run)


def test_a_shard_that_becomes_done_between_two_listings_is_not_lost(
    begun: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, list_folder, listed = open_run(begun[0]), layout_module._published_in, []

    def racing(folder: Path) -> set[str]:
        names = list_folder(folder)
        listed.append(folder.name)
        if len(listed) == 1:
            publish(*begun)
        return names

    monkeypatch.setattr(layout_module, "_published_in", racing)
    assert run.published() == [DONE, BEGUN]
    assert listed == ["first-images", "metadata"]
    assert RunLayout(begun[0]).done_and_begun() == ({DONE, BEGUN}, set())


def test_first_images_that_are_gone_without_a_whole_shard_are_an_error(begun: tuple[Path, Manifest]) -> None:
    run = open_run(begun[0])
    for ending in ("parquet", "h5"):
        (run.layout.first_images / f"{BEGUN}.{ending}").unlink()
    with pytest.raises(UserError, match="the shard 'query-0' is not done"):
        run.read_maps(MAP, BEGUN)
    with pytest.raises(UserError, match=r"cannot read .*query-0.parquet: No such file"):
        run.read_metadata(["key"], [BEGUN])


def test_the_tar_of_a_shard_that_became_done_is_the_one_that_was_mined(begun: tuple[Path, Manifest]) -> None:
    run = open_run(begun[0])
    (before,) = run.mined_shards([BEGUN])
    assert before.size == 1000  # that of run.json: first images keep nothing of their tar
    publish(*begun)
    assert run.mined_shards([BEGUN]) == [before]


def test_statistics_go_on_when_the_shard_becomes_done_after_the_images_were_chosen(
    begun: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images that were chosen are measured, of the whole shard's file."""
    run = open_run(begun[0])
    after(run, monkeypatch, "metadata_files", lambda: publish(*begun, count=FIRST + 1, only_first=True))
    chosen = choose_images(run, make_question(run, where="pid < 2"), run.published())
    publish(*begun)
    assert chosen.spans() == [(DONE, slice(0, 2)), (BEGUN, slice(2, 4))]
    ((_, maps),) = read_slices(run, MAP, BEGUN, chosen.rows[2:4])
    assert (maps == maps_of_shard(BEGUN)[:2]).all()


def test_a_file_among_the_first_images_that_is_no_shards_is_named(begun: tuple[Path, Manifest]) -> None:
    folder = begun[0] / "first-images"
    shutil.copy(folder / f"{BEGUN}.parquet", folder / "copy.parquet")
    with pytest.raises(UserError, match=rf"copy.parquet is not in run.json.* Move it out of {folder}$"):
        open_run(begun[0]).published()
    assert verify_module.verify(begun[0]).problems == ["copy: is not in run.json"]
    assert list(status_module.status(begun[0]).damaged) == ["copy"]


def test_verify_reads_the_files_of_a_shard_that_became_done(
    begun: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_run(begun[0])
    publish(*begun)
    monkeypatch.setattr(verify_module, "open_run", lambda _: opened)
    verdict = verify_module.verify(begun[0])
    assert (verdict.problems, verdict.intact, verdict.missing) == ([], 2, ["train-0"])


def test_verify_says_nothing_of_first_images_that_are_gone_since_the_shard_is_done(
    begun: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(name: str, layout: RunLayout, manifest: Manifest) -> CheckedShard:
        if name in layout.begun:
            publish(*begun)
        return check_shard(name, layout, manifest)

    monkeypatch.setattr("jobs.runs.verify.check_shard", late)
    verdict = verify_module.verify(begun[0])
    assert (verdict.problems, verdict.intact, verdict.exit_status) == ([], 1, 3)


@pytest.mark.parametrize(
    ("ending", "kind"), [("parquet", status_module.METADATA_DAMAGED), ("h5", status_module.MAPS_DAMAGED)]
)
def test_status_names_first_images_that_are_damaged(begun: tuple[Path, Manifest], ending: str, kind: str) -> None:
    assert status_module.status(begun[0]).begun == {BEGUN: FIRST}
    damaged = begun[0] / "first-images" / f"{BEGUN}.{ending}"
    damaged.write_bytes(damaged.read_bytes()[:200])
    found = status_module.status(begun[0])
    assert (found.done, found.begun, found.exit_status) == (1, {}, 1)
    assert list(found.damaged) == [BEGUN] and found.damaged[BEGUN].startswith(str(damaged))
    (failed,) = status_module.failed_inputs(found)
    assert (failed.shard, failed.status, failed.input) == (BEGUN, kind, f"/nowhere/{BEGUN}.tar")


def test_status_passes_over_first_images_that_are_gone_since_the_shard_is_done(
    begun: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(layout: RunLayout, shard: str, fingerprint: str) -> ShardFooter:
        if shard in layout.begun:
            publish(*begun)
        return check_pair(layout, shard, fingerprint)

    monkeypatch.setattr("jobs.runs.status.check_pair", late)
    found = status_module.status(begun[0])
    assert (found.damaged, found.begun, found.exit_status) == ({}, {}, 0)


def test_it_is_said_of_which_shards_only_the_first_images_are_used(
    begun: tuple[Path, Manifest], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_unfinished(open_run(begun[0]))
    alone = tmp_path / "ALONE"
    publish(alone, made_manifest(alone, [BEGUN]), only_first=True)
    warn_of_unfinished(open_run(alone))
    assert caplog.messages == [
        f"{begun[0]}: 2 of 3 shards are not done, and their images are left out: train-0; of {BEGUN} only the first "
        "images are used",
        f"{alone}: 1 of 1 shard is not done, and of {BEGUN} only the first images are used",
    ]


def test_scores_of_first_images_are_old_when_the_shard_is_whole(begun: tuple[Path, Manifest]) -> None:
    run = open_run(begun[0])
    path = run.evaluation / "queries.parquet"
    path.parent.mkdir()
    columns = {"shard": [BEGUN], "key": [f"{BEGUN}/0"], "h5_row": [0], "ap": [0.5], "first_hit_rank": [1]}
    pq.write_table(pa.table(columns).replace_schema_metadata(EvaluatedState.of(run).as_metadata()), path)
    chosen = select_rows(run, RowSelection(where="ap = 0.5"), columns=["key", "first_rank"])
    assert chosen.to_pylist() == [{"key": f"{BEGUN}/0", "first_rank": 1}]
    publish(*begun)
    with pytest.raises(UserError, match="of which shards were completed or mined anew since then: run `promptsg"):
        select_rows(run, RowSelection(where="ap = 0.5"))


def test_the_footer_of_a_shard_that_became_done_is_read(begun: tuple[Path, Manifest]) -> None:
    run = open_run(begun[0])
    publish(*begun)
    assert run.footer_of(BEGUN).images == ALL
