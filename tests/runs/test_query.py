"""Choosing rows: SQL, keys and samples over real Parquet files, against the rows that Python picks."""

from __future__ import annotations

import logging
import resource
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from jobs.commands.options import selection_options
from jobs.errors import UserError
from jobs.runs import footer
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import ResolvedSettings, RunRequest, create_manifest
from jobs.runs.maps_file import HEADS
from jobs.runs.metadata_rows import Results
from jobs.runs.metadata_sql import SqlLimits, connect_metadata
from jobs.runs.query import RowSelection, keys_in_several_shards, select_rows
from jobs.runs.query_list import QueryList, read_csv_keys, read_keys, read_queries
from jobs.runs.rows.lookup import rows_by_key
from jobs.runs.run import Run, open_run
from jobs.runs.shard_output import ShardOutput
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import OK, read_samples
from jobs.shards.tar import TarReader
from jobs.shards.urls import expand_shards
from jobs.tables import csv_text
from promptsg_core.images import read_header
from tests.support.shard_files import market_key, market_shard

MAPS = ("mim_attention", "gradcam++/mim")
GRID = (8, 4)
Maps = Callable[[str, int], Mapping[str, NDArray[np.float32]]]


def random_maps(shard: str, number: int) -> dict[str, NDArray[np.float32]]:
    """Two maps that depend on the shard and the row; the attention sums to 1."""
    rng = np.random.default_rng([*shard.encode(), number])
    attention, gradient = rng.random((2, *GRID)).astype(np.float32)
    return {MAPS[0]: attention / attention.sum(), MAPS[1]: gradient * 3}


def make_run(root: Path, shards: Path, maps: Maps = random_maps, heads: bool = False) -> Run:
    """A run over all tars of a folder as `mine` writes it, with maps of our own instead of a model's.

    With `heads` the maps of each row have HEADS, (heads, h, w), too.
    """
    listed = expand_shards([str(shards / "*.tar*")])
    asked = {
        "asked": {"maps": list(MAPS), "attention_heads": "all" if heads else "mean"},
        "shards": [{"name": s.name, "url": s.url, "size": s.size} for s in listed],
    }
    manifest = create_manifest(RunLayout(root), RunRequest.model_validate(asked), ResolvedSettings())
    for shard in listed:
        output = ShardOutput(RunLayout(root), manifest, shard.name, max_failed_fraction=0.5)
        samples, found = [], []
        with TarReader(shard) as tar:
            for number, (sample, data) in enumerate(read_samples(tar, shard.name)):
                samples.append(sample)
                if data is not None:
                    try:
                        header = read_header(data)
                    except (OSError, Image.UnidentifiedImageError) as error:
                        sample.fail("image_corrupt", str(error))
                        continue
                    sample.width, sample.height = header.width, header.height
                    found.append(maps(shard.name, number))
        count = len(found)
        stacked = {name: np.stack([one[name] for one in found]) for name in MAPS}
        zeros = np.zeros(count, np.float32)
        for sample in samples:  # a map of a target that the row lacks is NaN
            if sample.status == OK and np.isnan(maps(shard.name, sample.tar_index)[MAPS[1]]).any():
                sample.status = "no_label"
        results = Results(
            maps=stacked, features=np.ones((count, 3), np.float32), score=zeros, probability=zeros,
            predicted=np.zeros(count, np.int64),
            stored={HEADS: np.stack([one[HEADS] for one in found])} if heads else {},
        )  # fmt: skip
        output.add(SampleColumns.of(samples), results)
        output.commit()
    return open_run(root)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("selection")
    market_shard(folder / "tars/query-0.tar", 30)
    market_shard(folder / "tars/gallery-0.tar", 40, first=100)
    market_shard(folder / "tars/gallery-1.tar", 25, first=135)  # its first five keys are also in gallery-0
    return make_run(folder / "RUN", folder / "tars")


def everything(run: Run) -> list[dict[str, Any]]:
    """All rows by shard and place in the tar, read with pyarrow alone."""
    rows = [row for path in run.layout.metadata.iterdir() for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: (row["shard"], row["tar_index"]))


def test_without_anything_it_is_all_rows_in_the_order_of_the_shards(run: Run) -> None:
    table = select_rows(run)
    assert table.to_pylist() == everything(run) and table.schema.equals(run.schema)
    assert select_rows(run, columns=["key", "pid"]).column_names == ["key", "pid"]


def test_where_order_and_limit_are_those_of_sql(run: Run) -> None:
    wanted = [r for r in everything(run) if r["camid"] == 2 and r["gradcampp_mim_entropy"] < 3.3]
    found = select_rows(run, RowSelection(where="camid = 2 AND gradcampp_mim_entropy < 3.3 -- a comment"))
    assert found.to_pylist() == wanted and 0 < len(wanted) < 16
    wanted.sort(key=lambda r: -r["mim_attention_max"])
    found = select_rows(
        run, RowSelection(where="camid = 2 AND gradcampp_mim_entropy < 3.3", order_by="mim_attention_max DESC", limit=3)
    )
    assert found["key"].to_pylist() == [r["key"] for r in wanted[:3]]
    ties = select_rows(run, RowSelection(order_by="camid DESC")).to_pylist()
    assert ties == sorted(everything(run), key=lambda r: -r["camid"])  # sorted() is stable
    assert select_rows(run, RowSelection(where="pid = -99")).num_rows == 0
    assert select_rows(run, RowSelection(where="pid IN (SELECT max(pid) FROM samples)")).num_rows == 5


def test_a_sample_is_reproducible_uniform_and_of_the_rows_that_fit(run: Run) -> None:
    once, again, other = (
        select_rows(run, RowSelection(where="split = 'gallery'", sample=20, seed=s)).to_pylist() for s in (4, 4, 5)
    )
    assert once == again != other and len(once) == 20
    assert once == sorted(once, key=lambda r: (r["shard"], r["tar_index"])) and {r["split"] for r in once} == {
        "gallery"
    }
    counts = np.zeros(30)
    for seed in range(90):  # 10 of 30 each time: binomial, mean 30, sd 4.5
        for row in select_rows(
            run, RowSelection(where="split = 'query'", sample=10, seed=seed), columns=["tar_index"]
        ).to_pylist():
            counts[row["tar_index"]] += 1
    assert counts.sum() == 900 and counts.min() > 12 and counts.max() < 48
    assert select_rows(run, RowSelection(sample=1000)).num_rows == 95


def test_keys_come_in_their_own_order_and_missing_ones_are_named(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    keys = [r["key"] for r in everything(run) if r["split"] == "query"]
    wanted = [keys[7], keys[2], keys[19]]
    with caplog.at_level(logging.WARNING):
        found = select_rows(run, RowSelection(keys=(wanted[0], "nobody", *wanted[1:])))
    assert found["key"].to_pylist() == wanted
    assert caplog.messages == ["1 of 4 keys are not in the run: nobody"]
    assert select_rows(run, RowSelection(where=f"pid <> {int(keys[2][:4])}", keys=tuple(wanted)))[
        "key"
    ].to_pylist() == [wanted[0], wanted[2]]
    assert select_rows(run, RowSelection(order_by="key", keys=tuple(wanted)))["key"].to_pylist() == sorted(wanted)
    assert read_keys(["b\n", "\n", " a \n", "b\n"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "mim_atention_entropy < 3"}, "no column 'mim_atention_entropy'; did you mean mim_attention_entropy"),
        ({"order_by": "gradcam_mim_max"}, "no column 'gradcam_mim_max'; did you mean gradcampp_mim_max"),
        ({"where": 'split = "query"'}, "no column 'query'.*single quotes"),
        ({"where": "pid = "}, "--where: Parser Error"),
        ({"where": "pid = 1; DROP VIEW samples"}, "--where: Parser Error"),
        ({"where": "pid = 1) UNION (SELECT 1, 2"}, "--where: Parser Error"),
        ({"order_by": "pid LIMIT 1"}, "--order-by: Parser Error"),
        ({"order_by": "pid; SELECT 1"}, "--order-by: Parser Error"),
        ({"where": " "}, "--where is empty"),
        ({"where": "key"}, "Conversion Error"),
    ],
)
def test_what_is_no_expression_over_the_columns_is_refused_in_one_line(
    run: Run, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        select_rows(run, RowSelection(**options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_sql_sees_neither_files_nor_variables_nor_settings(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    visible_in_python = pa.table({"a": [1]})
    assert visible_in_python.num_rows == 1
    for where, message in (
        (f"pid IN (SELECT a FROM '{secret}')", "secret.csv.*disabled by configuration"),
        (f"pid IN (SELECT a FROM read_csv('{secret}'))", "secret.csv.*disabled by configuration"),
        ("pid IN (SELECT a FROM visible_in_python)", "visible_in_python does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            select_rows(run, RowSelection(where=where))
    for setting in ("enable_external_access = true", "lock_configuration = false"):
        with pytest.raises(duckdb.Error, match="the configuration has been locked"):
            connect_metadata(run).execute(f"SET {setting}")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("length(repeat(key, 100000000)) > 3", "the selection needs more than 0.3 GB of memory and was stopped"),
        # DuckDB before version 2 refuses so long a list by itself.
        ("len(range(1000000000 + pid)) > 3", "needs more than 0.3 GB of memory and was stopped|Out of Range Error"),
        ("pid IN (SELECT sum(a.i) FROM range(1000000) a(i), range(1000000) b, range(1000000) c)", "(took|needs) more"),
        (
            "pid IN (WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT 1 FROM t) SELECT n FROM t)",
            "took more than 1 sec",
        ),
    ],
)
def test_sql_that_explodes_ends_with_one_line(
    run: Run, where: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.runs.metadata_sql._SECONDS", 1.0)
    monkeypatch.setattr("jobs.runs.metadata_sql._MEMORY", 256 << 20)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(UserError, match=message) as caught:
        select_rows(run, RowSelection(where=where), option="--where")
    assert "\n" not in str(caught.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits
    assert len(select_rows(run, RowSelection(where="pid = 3"))) == sum(row["pid"] == 3 for row in everything(run))


def test_what_a_query_may_take_grows_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.runs.metadata_sql.machine_memory", lambda: 16 << 30)
    assert SqlLimits.of_files(0) == SqlLimits(memory=2 << 30, seconds=300)
    assert SqlLimits.of_files(10**9) == SqlLimits(memory=(2 << 30) + 10**9, seconds=500)
    assert SqlLimits.of_files(10**11).memory == 12 << 30
    monkeypatch.setattr("jobs.runs.metadata_sql.machine_memory", lambda: None)
    assert SqlLimits.of_files(10**11).memory == (2 << 30) + 10**11


def test_a_selection_keeps_no_footers_and_opens_only_the_files_of_its_rows(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pyarrow dataset would keep the footers of all files: gigabytes where there are 10,000."""
    read = []
    monkeypatch.setattr("pyarrow.dataset.dataset", lambda *_, **__: pytest.fail("a dataset was made"))
    read_rows = footer.read_rows
    monkeypatch.setattr(
        "jobs.runs.rows.lookup.read_rows", lambda path, columns: read.append(path) or read_rows(path, columns)
    )
    row = everything(run)[7]
    found = select_rows(open_run(run.layout.root), RowSelection(where=f"key = '{row['key']}'"))
    assert [r["key"] for r in found.to_pylist()] == [row["key"]] and [path.stem for path in read] == [row["shard"]]


def test_a_run_in_a_folder_with_any_name_is_queried(run: Run, tmp_path: Path) -> None:
    """Quotes, glob characters, and what would be a partition of a data set."""
    root = tmp_path / "pid=7" / "it's [a] *run? {b,c}"
    shutil.copytree(run.layout.root, root)
    found = select_rows(open_run(root), RowSelection(order_by="key DESC", limit=3))
    assert found.equals(select_rows(run, RowSelection(order_by="key DESC", limit=3)))


def test_rows_by_key_finds_the_rows_with_maps(run: Run) -> None:
    rows = everything(run)
    wanted = [rows[50], rows[3]]
    found = rows_by_key(run, [(r["shard"], r["key"]) for r in wanted], ["shard", "key", "h5_row"])
    assert found.to_pylist() == [{k: r[k] for k in ("shard", "key", "h5_row")} for r in (rows[3], rows[50])]
    with pytest.raises(UserError, match="'train-9' is not done"):
        rows_by_key(run, [("train-9", "x")])


def test_keys_of_several_shards_are_known_from_the_whole_run(run: Run) -> None:
    twice = {market_key(1 + n // 5, n % 6, n) for n in range(135, 140)}
    assert keys_in_several_shards(run, [r["key"] for r in everything(run)[:60]]) == twice
    assert keys_in_several_shards(run, [market_key(1, 0, 0)]) == set()


def test_only_files_that_may_hold_a_key_are_read_for_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in run.published():
        found, keys = run.footers.of(shard), pq.read_table(run.layout.shard_metadata(shard))["key"].to_pylist()
        assert found.keys == (min(keys), max(keys))
        assert found.may_hold([min(keys)]) and found.may_hold([" ", max(keys)])
        assert not found.may_hold([" ", max(keys) + "0"]) and not found.may_hold([])
        assert replace(found, keys=None).may_hold([" "])  # of an earlier version
    read = []
    monkeypatch.setattr(
        "jobs.runs.query.connect_metadata", lambda run, shards: read.append(shards) or connect_metadata(run, shards)
    )
    row = everything(run)[7]
    assert keys_in_several_shards(run, [row["key"]]) == set() and row["shard"] in read[0]
    assert keys_in_several_shards(run, [" "]) == set() and len(read) == 1


def test_queries_may_be_filtered_by_what_evaluate_found(run: Run, tmp_path: Path) -> None:
    rows = [r for r in everything(run) if r["split"] == "query"][:4]
    table = pa.table(
        {"shard": [r["shard"] for r in rows], "key": [r["key"] for r in rows], "ap": [0.1, 0.9, None, 0.3],
         "topk_keys": [["a"]] * 4}
    )  # fmt: skip
    assert [
        r["key"] for r in select_rows(run, RowSelection(where="ap < 0.5", order_by="ap DESC"), joined=table).to_pylist()
    ] == [
        rows[3]["key"],
        rows[0]["key"],
    ]
    assert select_rows(run, RowSelection(keys=(rows[2]["key"], rows[1]["key"])), joined=table)["key"].to_pylist() == [
        rows[2]["key"],
        rows[1]["key"],
    ]
    pq.write_table(table, tmp_path / "queries.parquet")
    (tmp_path / "failures.txt").write_text("k1\nk2\n")
    assert read_queries(tmp_path / "failures.txt", ranked=False) == QueryList(keys=("k1", "k2"))
    assert read_queries(tmp_path / "queries.parquet", ranked=False) == QueryList(table=table)
    (tmp_path / "image.txt").write_bytes(b"\xff\xd8")
    with pytest.raises(UserError, match=r"image\.txt is neither Parquet nor a list of keys"):
        read_queries(tmp_path / "image.txt", ranked=False)
    with pytest.raises(UserError, match="no column topk_correct, topk_distances, topk_shards"):
        read_queries(tmp_path / "failures.txt", ranked=True)
    with pytest.raises(UserError, match="is not a file"):
        read_queries(tmp_path / "nothing.txt", ranked=True)


def test_a_list_of_queries_and_a_list_of_keys_are_both_kept() -> None:
    every, listed = QueryList(), QueryList(keys=("a", "b", "c"))
    assert every.keys_among(None) is None and every.keys_among(["z", "a"]) == ("z", "a")
    assert listed.keys_among(None) == ("a", "b", "c") and listed.keys_among(["c", "z", "a"]) == ("c", "a")


def test_a_run_without_a_finished_shard_says_so(tmp_path: Path) -> None:
    asked = {"asked": {"maps": list(MAPS)}, "shards": []}
    create_manifest(RunLayout(tmp_path / "RUN"), RunRequest.model_validate(asked), ResolvedSettings())
    with pytest.raises(UserError, match="no finished shard"):
        select_rows(open_run(tmp_path / "RUN"))


def test_keys_come_from_a_column_of_a_csv_too() -> None:
    text = csv_text(["n", "key"], [[-1, "=a"], [2, "b,c"], [3, "'d"], [4, "=a"], [5, ""]])
    assert read_csv_keys(text.splitlines(), "k.csv") == ["=a", "b,c", "'d"]
    assert read_csv_keys([], "k.csv") == []
    with pytest.raises(UserError, match=r"--keys k.csv has no column key; it has n, m"):
        read_csv_keys(["n,m\n", "1,2\n"], "k.csv")


def test_the_option_keys_takes_lists_and_csv_files(tmp_path: Path) -> None:
    @click.command()
    @selection_options()
    def show(selection: RowSelection) -> None:
        click.echo(selection.keys)

    (tmp_path / "k.csv").write_text(csv_text(["key"], [["=a"], ["b"]]))
    (tmp_path / "k.txt").write_text("'=a\nb\n")
    assert CliRunner().invoke(show, ["--keys", str(tmp_path / "k.csv")]).output == "('=a', 'b')\n"
    assert CliRunner().invoke(show, ["--keys", str(tmp_path / "k.txt")]).output == """("'=a", 'b')\n"""
    assert CliRunner().invoke(show, ["--keys", "-"], input="x\n").output == "('x',)\n"


def test_a_file_with_another_column_is_named(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.layout.root, tmp_path / "RUN")
    path = RunLayout(tmp_path / "RUN").shard_metadata("gallery-0")
    table = pq.read_table(path)
    names = ["frqme" if column == "frame" else column for column in table.column_names]
    pq.write_table(table.rename_columns(names).replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(UserError, match=f"{path} is damaged .it has other columns"):
        connect_metadata(open_run(tmp_path / "RUN"))
