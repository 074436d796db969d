"""`ap` and `first_rank` in SQL and as columns, against queries.parquet, and evaluations that are too old."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import UserError
from jobs.retrieval.evaluate import EvaluateConfig, evaluate
from jobs.runs.evaluation import query_scores as module
from jobs.runs.evaluation.query_scores import known_scores, names_scores
from jobs.runs.query import RowSelection, check_selection, select_rows
from jobs.runs.run import open_run
from jobs.statistics.chosen import choose_images, choose_in_blocks
from jobs.statistics.question import make_question
from jobs.statistics.stats import merge_parts
from tests.runs.conftest import NAMES, promptsg
from tests.support.made_runs import made_manifest, made_samples, made_shard


def evaluated(run: Path, **changes: Any) -> None:
    """Ranks one shard for the images of another. Not by the command, which would take the log away from the test."""
    sides = {"query_where": "shard = 'query-000000'", "gallery_where": "shard <> 'query-000000'"}
    evaluate(EvaluateConfig(run=run, bootstrap=5, **{**sides, **changes}))


def queries_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of queries.parquet that have a match, read with pyarrow alone."""
    return [row for row in pq.read_table(folder / "queries.parquet").to_pylist() if row["ap"] is not None]


def test_rows_are_chosen_and_sorted_by_the_scores_of_queries(made: Path) -> None:
    evaluated(made)
    queries = queries_of(made / "evaluation")
    assert len(queries) > 15 and len({row["ap"] for row in queries}) > 10
    wanted = sorted(row["ap"] for row in queries if row["ap"] < 0.3 and row["first_hit_rank"] > 1)
    run = open_run(made)
    selection = RowSelection(where="ap < 0.3 AND First_Rank > 1", order_by="ap DESC")
    found = select_rows(run, selection, columns=["key", "ap", "first_rank"])
    assert found.column_names == ["key", "ap", "first_rank"] and found["ap"].to_pylist() == wanted[::-1]
    assert 3 < len(wanted) < len(queries)
    by_key = {row["key"]: (row["ap"], row["first_hit_rank"]) for row in queries}
    assert [by_key[row["key"]] for row in found.to_pylist()] == [(r["ap"], r["first_rank"]) for r in found.to_pylist()]
    assert "ap" not in select_rows(run, selection).column_names  # all columns of the metadata, and no others


def test_rows_that_were_no_query_have_null(made: Path) -> None:
    evaluated(made)
    table = select_rows(open_run(made), columns=["key", "first_rank", "ap", "status"])
    known = {row["key"]: row["ap"] for row in queries_of(made / "evaluation")}
    assert len(table) == 120 and {row["key"]: row["ap"] for row in table.to_pylist() if row["ap"] is not None} == known
    assert len(select_rows(open_run(made), RowSelection(where="ap IS NULL"))) == 120 - len(known)
    failed = [row for row in table.to_pylist() if row["status"] != "ok"]
    assert failed and all(row["ap"] is None and row["first_rank"] is None for row in failed)


def test_groups_and_conditions_of_statistics_know_them(made: Path) -> None:
    evaluated(made)
    queries = queries_of(made / "evaluation")
    run = open_run(made)
    question = make_question(run, by=["ap < 0.3 AS hard", "first_rank = 1 AS right"], where="ap IS NOT NULL")
    chosen = choose_images(run, question, run.published())
    found = Counter[tuple[bool, bool]]()
    for group, images in zip(chosen.group.tolist(), chosen.images.tolist(), strict=True):
        found[tuple(column[group].as_py() for column in chosen.groups.columns)] += images
    assert found == Counter((row["ap"] < 0.3, row["first_hit_rank"] == 1) for row in queries) and len(found) > 1
    subquery = make_question(run, where="ap < (SELECT avg(ap) FROM run)")
    mean = sum(row["ap"] for row in queries) / len(queries)
    below = next(choose_in_blocks(run, subquery, run.published()))
    assert len(below.rows) == sum(row["ap"] < mean for row in queries)
    code, said = promptsg("render", made, "--where", "ap < 0.3", "--order-by", "first_rank, ap", "--dry-run")
    assert code == 0 and said.startswith(f"{sum(row['ap'] < 0.3 for row in queries)} pictures in ")


@pytest.mark.parametrize("name", ["render", "gallery", "stats", "diff", "localise", "faithfulness"])
def test_every_command_that_chooses_images_takes_another_evaluation(name: str) -> None:
    code, said = promptsg(name, "--help")
    assert code == 0 and "--evaluation" in said


def test_without_an_evaluation_one_line_names_the_command(made: Path) -> None:
    for words in (["render", made, "--dry-run"], ["stats", made], ["diff", made, made]):
        code, said = promptsg(*words, "--where", "ap < 0.5")
        assert code == 1 and said == (
            f"promptsg: ap and first_rank come from `promptsg evaluate {made}`: run it first, since there is no "
            f"{made / 'evaluation/queries.parquet'}. For results in another folder give --evaluation FOLDER\n"
        )
    code, said = promptsg("render", made, "--where", "first_hit_rank = 1", "--dry-run")
    assert code == 1 and "no column 'first_hit_rank'; did you mean first_rank?" in said


def test_an_evaluation_in_another_folder_is_named(made: Path, tmp_path: Path) -> None:
    evaluated(made, output=tmp_path / "other")
    count = len(queries_of(tmp_path / "other"))
    words = ("render", made, "--where", "ap >= 0", "--dry-run")
    assert promptsg(*words)[0] == 1
    code, said = promptsg(*words, "--evaluation", tmp_path / "other")
    assert code == 0 and said.startswith(f"{count} pictures")
    run = open_run(made, evaluation=tmp_path / "other")
    assert len(select_rows(run, RowSelection(where="ap >= 0"))) == count
    code, said = promptsg("render", made, "--queries", tmp_path / "other/failures.txt", "--where", "ap >= 0",
                          "--dry-run")  # fmt: skip
    assert code == 0 and "pictures in" in said  # the scores beside the list that was given


def test_nothing_is_read_where_no_expression_names_a_score(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated(made)

    def refused(*_: object) -> None:
        raise AssertionError("the scores were read")

    monkeypatch.setattr(module.EvaluatedState, "of", refused)
    monkeypatch.setattr("jobs.runs.metadata_sql.read_scores", refused)
    assert len(select_rows(open_run(made), RowSelection(where="split = 'ap' OR camid = 1", order_by="key"))) == 39


@pytest.mark.parametrize(
    ("expression", "named"),
    [("ap < 1", True), ("AP < 1", True), ('"ap" < 1', True), ("samples.first_rank = 1", True), ("key = 'ap'", False),
     ("key = 'it''s ap'", False), ("camid = 1 -- ap", False), ("camid /* ap */ = 1", False), ("map_ap < 1", False),
     ("key = $$ap$$", False), ("'x' || ap", True), (None, False), ("", False)],
)  # fmt: skip
def test_only_columns_are_names(expression: str | None, named: bool) -> None:
    assert names_scores(["camid = 1", expression]) is named


def test_scores_that_are_older_than_the_run_are_refused(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluated(made)
    path, again = made / "evaluation/queries.parquet", f"run `promptsg evaluate {made}` again"
    where = RowSelection(where="ap < 0.5")
    (made / "metadata" / f"{NAMES[0]}.parquet").rename(made / "kept")
    with pytest.raises(UserError) as refused:
        select_rows(open_run(made), where)
    assert str(refused.value) == f"{path} is older than {made}, which has 2 shards with images and had 3 then: {again}"
    made_shard(made, open_run(made).manifest, NAMES[0], made_samples(40, 0), seed=9)  # other features
    run = open_run(made)
    with pytest.raises(UserError) as refused:
        select_rows(run, where)
    assert (
        str(refused.value)
        == f"{path} is older than {made}, of which shards were completed or mined anew since then: {again}"
    )
    assert known_scores(run) is None and "average precision is not shown: " in caplog.text
    evaluated(made)
    assert 0 < len(select_rows(run, where)) < 40


def test_scores_of_another_run_are_refused(made: Path, tmp_path: Path) -> None:
    evaluated(made)
    other = tmp_path / "OTHER"
    manifest = made_manifest(other, NAMES[:2])
    for name in NAMES[:2]:
        made_shard(other, manifest, name, made_samples(40))
    with pytest.raises(UserError, match=r"queries\.parquet is of another run than .*OTHER: run `promptsg evaluate"):
        select_rows(open_run(other, evaluation=made / "evaluation"), RowSelection(where="ap < 0.5"))


def test_scores_of_an_earlier_version_are_taken_with_a_warning(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluated(made)
    path = made / "evaluation/queries.parquet"
    table = pq.read_table(path)
    state = json.loads(table.schema.metadata[b"promptsg.evaluated"])
    assert state["shards"] == 3 and state["fingerprint"] == open_run(made).manifest.fingerprint
    pq.write_table(table.replace_schema_metadata(None), path)
    with caplog.at_level(logging.WARNING):
        found = select_rows(open_run(made), RowSelection(where="ap >= 0"))
    assert len(found) == len(queries_of(made / "evaluation"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} does not say which shards it is about; if {made} has changed since, run `promptsg evaluate {made}` "
        "again"
    ]
    pq.write_table(pa.table({"key": ["a"]}), path)
    with pytest.raises(UserError, match=r"cannot read .*queries\.parquet as queries of `promptsg evaluate`"):
        select_rows(open_run(made), RowSelection(where="ap >= 0"))


def test_parts_of_statistics_by_different_evaluations_are_not_merged(made: Path, tmp_path: Path) -> None:
    evaluated(made)
    out = ("--output", tmp_path / "stats")
    for block in ("0/2", "1/2"):
        code, said = promptsg("stats", made, "--by", "ap < 0.3 AS hard", "--block", block, *out)
        assert code == 0, said
    parts = sorted((tmp_path / "stats/parts").glob("*.npz"))
    assert len(merge_parts(open_run(made), parts).shards) == 3
    evaluated(made, keep_same_camera=True)
    with pytest.raises(UserError, match="is from before the last `promptsg evaluate`: make the part again"):
        merge_parts(open_run(made), parts)


def test_a_selection_that_names_scores_is_checked_before_anything_is_read(made: Path) -> None:
    with pytest.raises(UserError, match="ap and first_rank come from"):
        check_selection(open_run(made), RowSelection(order_by="ap"))
    evaluated(made)
    check_selection(open_run(made), RowSelection(where="ap < 0.5", order_by="first_rank"))
    with pytest.raises(UserError, match="there is no column 'app'"):
        check_selection(open_run(made), RowSelection(where="app < 0.5 AND ap < 0.5"))


def test_a_query_that_is_there_twice_is_refused(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A join would give its row twice, or rows of different numbers."""
    evaluated(made)
    path = made / "evaluation/queries.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(3, 1)]), path)
    key = table["key"][3].as_py()
    for columns in (["key"], ["key", "ap"]):
        with pytest.raises(UserError) as refused:
            select_rows(open_run(made), RowSelection(where=None if "ap" in columns else "ap >= 0"), columns=columns)
        assert str(refused.value) == (
            f"cannot read {path} as queries of `promptsg evaluate`: it has the query {key!r} of 'query-000000' 2 times"
            "; run `promptsg evaluate` again"
        )
    assert known_scores(open_run(made)) is None and "average precision is not shown: " in caplog.text


def test_parts_whose_scores_are_gone_are_not_merged(made: Path, tmp_path: Path) -> None:
    evaluated(made)
    code, said = promptsg("stats", made, "--by", "ap < 0.3 AS hard", "--block", "0/1", "--output", tmp_path / "stats")
    assert code == 0, said
    (part,) = (tmp_path / "stats/parts").glob("*.npz")
    (made / "evaluation/queries.parquet").unlink()
    with pytest.raises(UserError, match=r"ap and first_rank come from `promptsg evaluate .*run it first"):
        merge_parts(open_run(made), [part])
