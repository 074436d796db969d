"""Single heads as maps by name: what is read is what h5py reads, and what is not there is said in one line."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from jobs.errors import UserError
from jobs.runs.heads.names import attention_with_heads
from jobs.runs.heads.rows import HeadRows
from jobs.runs.query import RowSelection, select_rows
from jobs.runs.request import ResolvedSettings
from jobs.runs.run import Run, open_run
from tests.runs.test_query import MAPS
from tests.support.made_heads import COUNT, heads_in, run_with_heads
from tests.support.made_runs import made_manifest, made_samples, made_shard


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_with_heads(tmp_path_factory.mktemp("heads"))


@pytest.mark.parametrize("rows", [None, slice(3, 9), [7, 2, 2, 19], [0, 19]])
def test_a_head_is_what_h5py_reads(run: Run, rows: slice | list[int] | None) -> None:
    every = heads_in(run, "query-0")
    assert every.shape == (20, COUNT, 8, 4)
    for head in range(COUNT):
        wanted = every[:, head] if rows is None else every[rows, head]
        found = run.read_maps(f"mim_attention#{head}", "query-0", rows)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(run.read_maps("mim_attention_heads", "query-0", rows), every[rows or slice(None)])


def test_rows_of_several_shards_give_their_heads_in_order(run: Run) -> None:
    rows = select_rows(run, RowSelection(order_by="key DESC"))
    wanted = [heads_in(run, row["shard"])[row["h5_row"], 4] for row in rows.to_pylist()]
    np.testing.assert_array_equal(run.maps_of("mim_attention#4", rows), np.stack(wanted))


def test_all_is_every_head_and_nothing_is_taken_by_default(run: Run) -> None:
    every = tuple(f"mim_attention#{head}" for head in range(COUNT))
    assert run.heads == COUNT and run.maps == MAPS
    assert run.choose_maps(["mim_attention#all"]) == every
    assert run.choose_maps(["mim_attention#2", MAPS[1], "mim_attention#all"]) == (
        every[2],
        MAPS[1],
        *every[:2],
        *every[3:],
    )
    assert run.shared_maps(run, ["mim_attention#1"]) == (every[1],)
    with pytest.raises(
        UserError, match=r"mim_attention#all is not one map: .* mim_attention_heads for all heads at once"
    ):
        run.read_maps("mim_attention#all", "query-0")


@pytest.mark.parametrize("text", ["mim_attention#5", "mim_attention#-1", "mim_attention#", "mim_attention#x"])
def test_a_head_that_is_not_there_says_how_many_there_are(run: Run, text: str) -> None:
    with pytest.raises(
        UserError, match=r"mim_attention has 5 heads, mim_attention#0 to mim_attention#4 \(mim_att"
    ) as e:
        run.choose_maps([text])
    assert repr(text) in str(e.value) and "\n" not in str(e.value)


def test_other_maps_have_no_heads(run: Run, tmp_path: Path) -> None:
    for text in ("gradcam++/mim#1", "mim_attention:bag#1", "cls_attention#0"):
        with pytest.raises(UserError, match="stores the heads of mim_attention, and of no other map"):
            run.choose_maps([text])
    manifest = made_manifest(tmp_path / "RUN", ["a"])
    made_shard(tmp_path / "RUN", manifest, "a", made_samples(6))
    for text in ("mim_attention#3", "mim_attention#all"):
        with pytest.raises(UserError, match=r"has no single heads, .* stores them with --attention-heads all"):
            open_run(tmp_path / "RUN").choose_maps([text])
    # Other families than the first are recorded by name, and have the last block's attention.
    resolved = ResolvedSettings(model={"family": "clipreid"})
    assert attention_with_heads(manifest) == "mim_attention"
    assert attention_with_heads(manifest.model_copy(update={"resolved": resolved})) == "cls_attention"


def test_sql_says_that_heads_have_no_columns(run: Run) -> None:
    for order in ("mim_attention_head3_entropy DESC", "mim_attention#3_entropy"):
        with pytest.raises(UserError, match=r"^--order-by: single heads have no columns in the metadata; .* computes"):
            select_rows(run, RowSelection(order_by=order))


def test_a_file_with_other_heads_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", data=np.zeros((3, 2, 4, 5), np.float32), chunks=(3, 2, 4, 5))
        head = HeadRows(dataset, 1)
        assert head.shape == (3, 4, 5) and head.chunks == (3, 4, 5) and len(head) == 3
        with pytest.raises(ValueError, match="has no head 2"):
            HeadRows(dataset, 2)


def test_a_prompt_with_the_name_of_a_head_is_not_mistaken_for_it(tmp_path: Path) -> None:
    run = run_with_heads(tmp_path)
    manifest = run.manifest.model_copy(
        update={"asked": run.manifest.asked.model_copy(update={"maps": (*MAPS, "mim_attention:head3")})}
    )
    run.manifest = manifest
    with pytest.raises(UserError, match="mim_attention#3 and the run's map mim_attention:head3 would share the column"):
        run.choose_maps(["mim_attention#3"])
    assert run.choose_maps(["mim_attention#2"]) == ("mim_attention#2",)
