"""What is compared before maps are added to a shard, what a row then lacks, and that both files are right."""

from __future__ import annotations

import fcntl
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cam.measures import measure_maps
from jobs.atomic import sha256_of
from jobs.errors import ShardError, UserError
from jobs.runs.footer import read_facts
from jobs.runs.growth.added_output import AddedOutput
from jobs.runs.growth.run_json import add_addition
from jobs.runs.integrity.run_json import RunReplacedError
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, read_manifest
from jobs.runs.metadata_rows import Results
from jobs.runs.query import RowSelection, count_by_status, select_rows
from jobs.runs.request import Addition
from jobs.runs.rows.lookup import rows_by_key
from jobs.runs.run import open_run
from jobs.runs.shard_check import check_shard
from jobs.runs.status import status
from jobs.runs.verify import verify
from jobs.shards.columns import SampleColumns
from jobs.shards.samples import KEPT, NO_LABEL, Sample
from jobs.shards.shard_bytes import ShardBytes
from tests.support.made_runs import made_manifest, made_samples, made_shard
from tests.support.run_contents import contents_of

FROZEN = Path(__file__).parents[2] / "data" / "run-schema-1" / "RUN"
NEW = ("gradcam/mim",)


def samples_of(first: int = 0) -> list[Sample]:
    """Twelve samples, of which one has failed and one has no label; each image has a checksum."""
    found = made_samples(12, first)
    for number, sample in enumerate(found):
        sample.image_crc32 = 1000 + number
    found[2].status = NO_LABEL
    return found


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    """A run of the shards a and b, with an addition that is begun."""
    manifest = made_manifest(tmp_path, "ab", target="predicted")
    made_shard(tmp_path, manifest, "a", samples_of(), seed=1)
    made_shard(tmp_path, manifest, "b", samples_of(20), seed=2)
    number, _ = add_addition(RunLayout(tmp_path), manifest, Addition(maps=NEW))
    assert number == 2
    return RunLayout(tmp_path)


def results_for(layout: RunLayout, shard: str, samples: list[Sample], seed: int = 5) -> Results:
    count = sum(sample.status in KEPT for sample in samples)
    maps = np.random.default_rng(seed).random((count, 16, 8)).astype(np.float32)
    maps[[sample.status != "ok" for sample in samples if sample.status in KEPT]] = np.nan
    return Results(
        maps={NEW[0]: maps},
        features=open_run(layout.root).read_features(shard)[:count],
        score=np.zeros(count, np.float32),
        predicted=np.zeros(count, np.int64),
        probability=np.full(count, 0.5, np.float32),
    )


def output_for(layout: RunLayout, shard: str = "a", manifest: Manifest | None = None, most: float = 0.3) -> AddedOutput:
    return AddedOutput(layout, manifest or read_manifest(layout), 2, shard, most)


def rows_of(layout: RunLayout, shard: str = "a") -> list[dict]:
    return pq.read_table(layout.shard_metadata(shard)).to_pylist()


def test_a_shard_gets_maps_and_measures_and_keeps_the_rest(layout: RunLayout) -> None:
    before, samples = rows_of(layout), samples_of()
    results = results_for(layout, "a", samples)
    output = output_for(layout)
    kept = [sample.status in KEPT for sample in samples]
    output.add(SampleColumns.of(samples[:5]), results.rows(np.arange(11) < sum(kept[:5])))
    output.add(SampleColumns.of(samples[5:]), results.rows(np.arange(11) >= sum(kept[:5])))
    published, report = output.commit()
    output.discard()
    assert published and (report.images, report.failed) == (11, {})
    after = rows_of(layout)
    new = [name for name in after[0] if name not in before[0]]
    assert len(new) == 14 and [{name: row[name] for name in before[0]} for row in after] == before
    wanted = measure_maps(results.maps[NEW[0]])
    for row in after:
        if row["status"] == "ok":
            assert all(row[f"gradcam_mim_{one}"] == values[row["h5_row"]] for one, values in wanted.items())
        else:  # without a label, or failed
            assert {row[name] for name in new} == {None}
    (added,) = read_facts(layout.shard_metadata("a")).added
    assert (added.number, added.failed, added.h5_size) == (2, {}, layout.shard_added("a", 2).stat().st_size)
    np.testing.assert_array_equal(open_run(layout.root).read_maps(NEW[0], "a"), results.maps[NEW[0]])
    assert verify(layout.root).problems == [] and status(layout.root).zero_maps == {}
    assert open_run(layout.root).maps == ("mim_attention",) and open_run(layout.root).added[0].lacking == ("b",)
    # Another worker had the same shard in hand: the first result stands.
    late = output_for(layout)
    late.add(SampleColumns.of(samples), results_for(layout, "a", samples, seed=6))
    content = contents_of(layout.root)
    assert not late.commit().published and contents_of(layout.root) == content


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("key", "its sample 3 is 'other' now, and was 'k"),
        ("crc", "has other bytes than when it was mined"),
        ("status", "is no_label now, and was ok when it was mined"),
        ("features", "differ from the stored ones by 200.0% of their length"),
        ("dimension", "features of 7 numbers, stored are 12"),
        ("fewer", "its tar has 11 samples, 12 were mined"),
        ("more", "its sample 12 is 'more' now, and was no sample when it was mined"),
    ],
)
def test_what_is_not_the_shard_that_was_mined_is_refused(layout: RunLayout, change: str, problem: str) -> None:
    before, samples = contents_of(layout.root), samples_of()
    results = results_for(layout, "a", samples)
    if change == "key":
        samples[3].key = "other"
    elif change == "crc":
        samples[3].image_crc32 = 7
    elif change == "status":
        samples[3].status = NO_LABEL
    elif change == "features":
        results.features[4] *= -1
    elif change == "dimension":
        results = Results(**{**vars(results), "features": results.features[:, :7]})
    elif change == "fewer":
        samples, results = samples[:-1], results.rows(np.arange(11) < 10)
    else:
        samples.append(Sample(key="more", tar_index=12, status="image_corrupt"))
    output = output_for(layout)
    with pytest.raises(ShardError, match=problem):
        output.add(SampleColumns.of(samples), results)
        output.commit()
    output.discard()
    assert contents_of(layout.root) == before and not layout.shard_added("a", 2).exists()
    assert list(layout.added_maps(2).glob(".*.tmp")) == []


def test_another_tar_is_refused(tmp_path: Path) -> None:
    manifest = made_manifest(tmp_path, "a")
    samples = samples_of()
    from jobs.runs.shard_output import ShardOutput

    own = ShardOutput(RunLayout(tmp_path), manifest, "a", 1.0)
    results = Results(
        maps={"mim_attention": np.ones((11, 4, 2), np.float32)},
        features=np.ones((11, 3), np.float32),
        score=np.zeros(11, np.float32),
        predicted=np.zeros(11, np.int64),
        probability=np.ones(11, np.float32),
    )
    own.add(SampleColumns.of(samples), results)
    assert own.commit(ShardBytes(size=1000, sha256="1" * 64)).published
    layout = RunLayout(tmp_path)
    add_addition(layout, manifest, Addition(maps=NEW))
    output = output_for(layout)
    output.add(
        SampleColumns.of(samples_of()), Results(**{**vars(results), "maps": {NEW[0]: np.ones((11, 4, 2), np.float32)}})
    )
    with pytest.raises(ShardError, match="its tar has other bytes than when it was mined"):
        output.commit(ShardBytes(size=1000, sha256="2" * 64))
    output.discard()
    assert verify(tmp_path).problems == [] and status(tmp_path).added[0].done == 0


def test_rows_that_lack_the_maps_are_counted_by_reason(layout: RunLayout) -> None:
    """A map that is not finite, an image that does not decode any more, and one of another class."""
    samples = samples_of()
    results = results_for(layout, "a", samples)
    results.maps[NEW[0]][0, 3, 3] = np.inf
    results.maps[NEW[0]][1] = 0
    results.predicted[3] = 6
    samples[7].status, samples[7].error = "image_corrupt", "now"  # its result is that of h5 row 6
    output = output_for(layout)
    output.add(SampleColumns.of(samples), results.rows(np.arange(11) != 6))
    published, report = output.commit()
    assert published and report.failed == {"map_not_finite": 1, "other_prediction": 1, "image_corrupt": 1}
    assert (report.images, report.zero_maps) == (8, {NEW[0]: 1})
    maps = open_run(layout.root).read_maps(NEW[0], "a")
    # Row 2 has no label; 0, 3 and 6 are those above.
    assert np.flatnonzero(np.isnan(maps).all(axis=(1, 2))).tolist() == [0, 2, 3, 6]
    lacking = [row["h5_row"] for row in rows_of(layout) if row["gradcam_mim_max"] is None]
    assert lacking == [0, 2, 3, None, 6]
    assert verify(layout.root).problems == [] and status(layout.root).added[0].failed == report.failed
    refused = output_for(layout, "b", most=0.01)
    samples, results = samples_of(20), results_for(layout, "b", samples_of(20))
    results.maps[NEW[0]][0, 3, 3] = np.nan
    refused.add(SampleColumns.of(samples), results)
    with pytest.raises(ShardError, match=r"1 of 12 images lack the added maps \(1 map_not_finite\), more than"):
        refused.commit()
    refused.discard()


def test_a_shard_or_a_run_that_was_replaced_meanwhile_gets_nothing(layout: RunLayout) -> None:
    manifest, samples = read_manifest(layout), samples_of()
    output = output_for(layout)
    output.add(SampleColumns.of(samples), results_for(layout, "a", samples))
    layout.shard_metadata("a").unlink()
    made_shard(layout.root, manifest, "a", samples_of(), seed=9)
    with pytest.raises(ShardError, match="was mined again while maps were added to it"):
        output.commit()
    output.discard()
    output = output_for(layout)
    output.add(SampleColumns.of(samples), results_for(layout, "a", samples))
    layout.manifest.unlink()
    with pytest.raises(RunReplacedError):
        output.commit()
    output.discard()
    assert not layout.shard_added("a", 2).exists()


def test_an_h5_file_without_its_commit_counts_for_nothing(layout: RunLayout) -> None:
    """What a kill between the two renames leaves."""
    layout.shard_added("a", 2).write_bytes(b"half")
    assert verify(layout.root).problems == [] and status(layout.root).damaged == {}
    assert open_run(layout.root).maps == ("mim_attention",)
    samples = samples_of()
    output = output_for(layout)
    output.add(SampleColumns.of(samples), results_for(layout, "a", samples))
    assert output.commit().published and verify(layout.root).problems == []


def test_two_additions_in_either_order_give_the_same_columns(layout: RunLayout, tmp_path: Path) -> None:
    number, manifest = add_addition(layout, read_manifest(layout), Addition(maps=("hirescam/mim",)))
    assert number == 3
    copy = RunLayout(tmp_path / "other" / "RUN")
    shutil.copytree(layout.root, copy.root, ignore=shutil.ignore_patterns("other"))
    for where, numbers in ((layout, (2, 3)), (copy, (3, 2))):
        for one in numbers:
            samples = samples_of()
            results = results_for(where, "a", samples, seed=one)
            maps = dict.fromkeys(manifest.numbered_additions[one], results.maps[NEW[0]])
            output = AddedOutput(where, manifest, one, "a", 0.3)
            output.add(SampleColumns.of(samples), Results(**{**vars(results), "maps": maps}))
            assert output.commit().published
    assert contents_of(layout.root) == contents_of(copy.root)
    assert verify(copy.root).problems == [] and [
        file.number for file in read_facts(copy.shard_metadata("a")).added
    ] == [2, 3]


def test_a_run_of_the_first_version_grows(tmp_path: Path) -> None:
    """It keeps its columns, which have no area90, and its run.json, which has no hash of itself."""
    root = tmp_path / "RUN"
    shutil.copytree(FROZEN, root)
    layout = RunLayout(root)
    older = read_manifest(layout)
    number, manifest = add_addition(layout, older, Addition(maps=("hirescam/mim",)))
    assert (number, manifest.fingerprint, manifest.sha256) == (2, older.fingerprint, None)
    for shard in ("gallery-000000", "query-000000"):
        rows = rows_of(layout, shard)
        samples = [Sample(key=row["key"], tar_index=row["tar_index"], status=row["status"]) for row in rows]
        count = sum(row["h5_row"] is not None for row in rows)
        maps = np.ones((count, 4, 2), np.float32)
        maps[[row["status"] != "ok" for row in rows if row["h5_row"] is not None]] = np.nan
        results = Results(
            maps={"hirescam/mim": maps},
            features=open_run(root).read_features(shard),
            score=np.zeros(count, np.float32),
            predicted=np.zeros(count, np.int64),
            probability=np.ones(count, np.float32),
        )
        output = AddedOutput(layout, manifest, number, shard, 0.5)
        output.add(SampleColumns.of(samples), results)
        assert output.commit().published
    opened = open_run(root)
    assert opened.maps == ("mim_attention", "gradcam/mim", "hirescam/mim")
    assert len(opened.schema) == 20 + 3 * 13 and "hirescam_mim_area90" not in opened.schema.names
    assert opened.metadata().to_table()["hirescam_mim_mass"].drop_null().to_pylist() == [8.0] * 8
    assert verify(root).problems == []


def with_maps(layout: RunLayout, shard: str, number: int = 2, manifest: Manifest | None = None) -> AddedOutput:
    """An addition to a shard that only its commit is missing of."""
    manifest = manifest or read_manifest(layout)
    samples = samples_of() if shard == "a" else samples_of(20)
    results = results_for(layout, shard, samples)
    maps = dict.fromkeys(manifest.numbered_additions[number], results.maps[NEW[0]])
    output = AddedOutput(layout, manifest, number, shard, 0.3)
    output.add(SampleColumns.of(samples), Results(**{**vars(results), "maps": maps}))
    return output


@pytest.mark.parametrize("shards", ["a", "b", "ab"])
def test_a_run_that_is_open_stays_as_it_was_while_maps_are_added(
    layout: RunLayout, tmp_path: Path, shards: str
) -> None:
    manifest = made_manifest(tmp_path / "OPEN", "ab", target="predicted")
    for number, name in enumerate("ab"):
        made_shard(tmp_path / "OPEN", manifest, name, samples_of(20 * number), seed=1 + number)
    where = RunLayout(tmp_path / "OPEN")
    opened = open_run(where.root)
    chosen = RowSelection(where="mim_attention_max > 0", order_by="mim_attention_mass DESC")
    before, selected = opened.metadata().to_table(), select_rows(opened, chosen)
    wanted = [(row["shard"], row["key"]) for row in selected.to_pylist()]
    by_key = rows_by_key(opened, wanted)
    add_addition(where, manifest, Addition(maps=NEW))
    for shard in shards:
        assert with_maps(where, shard).commit().published
    assert opened.metadata().to_table() == before and select_rows(opened, chosen) == selected
    assert rows_by_key(opened, wanted) == by_key and selected.schema.names == opened.schema.names
    assert count_by_status(opened, "mim_attention_max > 0") == {"no_label": 2, "ok": len(selected) - 2}
    opened.refuse_damaged()
    assert [check_shard(name, where, manifest).problems for name in "ab"] == [(), ()]
    where.manifest.write_bytes((layout.root / "run.json").read_bytes())  # another run's: it does not count
    with pytest.raises(UserError, match="has other columns than the run"):
        opened.refuse_damaged()


def test_two_additions_at_once_know_each_other(layout: RunLayout) -> None:
    """A worker that began before the second addition finds its columns in the file."""
    early = read_manifest(layout)
    first = with_maps(layout, "a", 2, early)
    number, _ = add_addition(layout, early, Addition(maps=("hirescam/mim",)))
    second = with_maps(layout, "a", number)
    assert second.commit().published and first.commit().published
    assert [file.number for file in read_facts(layout.shard_metadata("a")).added] == [2, 3]
    assert verify(layout.root).problems == []
    with pytest.raises(UserError, match=r"run\.json has no addition 3"):
        early.columns_with((2, 3))


def test_the_lock_is_not_held_while_the_maps_are_hashed(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def hashed(path: Path) -> str:
        with layout.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is held
        held.append(path)
        return sha256_of(path)

    monkeypatch.setattr("jobs.runs.growth.added_output.sha256_of", hashed)
    assert with_maps(layout, "a").commit().published and len(held) == 1


def test_a_metadata_file_that_is_damaged_meanwhile_costs_its_shard_alone(layout: RunLayout) -> None:
    output = with_maps(layout, "a")
    layout.shard_metadata("a").write_bytes(b"PAR1 and no more")
    with pytest.raises(ShardError, match=r"a\.parquet is damaged"):
        output.commit()
    output.discard()


def test_images_that_were_done_again_are_reported(layout: RunLayout) -> None:
    samples = samples_of()
    output = output_for(layout)
    output.add(SampleColumns.of(samples), replace(results_for(layout, "a", samples), done_again=3))
    assert output.commit().report.done_again == 3


def test_maps_that_images_lack_are_made_again(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a kill hits between the two files, the shard is without the maps, and gets them by the same command."""
    before = pq.read_table(layout.shard_metadata("a"))
    samples = samples_of()
    results = results_for(layout, "a", samples)
    results.predicted[3] = 6
    output = output_for(layout)
    output.add(SampleColumns.of(samples), results)
    assert output.commit().report.failed == {"other_prediction": 1}
    old = layout.shard_added("a", 2).read_bytes()
    assert not with_maps(layout, "a").commit().published and layout.shard_added("a", 2).read_bytes() == old

    def retried() -> AddedOutput:
        output = AddedOutput(layout, read_manifest(layout), 2, "a", 0.3, replace=True)
        output.add(SampleColumns.of(samples_of()), results_for(layout, "a", samples_of()))
        return output

    with monkeypatch.context() as patched:
        killed = retried()
        patched.setattr(
            killed._file, "publish", lambda: killed._file.path.replace(layout.shard_added("a", 2)) and 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            killed.commit()
    assert pq.read_table(layout.shard_metadata("a")).equals(before, check_metadata=False)
    facts = read_facts(layout.shard_metadata("a"))
    assert (facts.added, list(facts.zero_maps)) == ((), ["mim_attention"])
    assert verify(layout.root).problems == [] and status(layout.root).added[0].lacking == ("a", "b")
    assert retried().commit().published
    assert read_facts(layout.shard_metadata("a")).added[0].failed == {} and verify(layout.root).problems == []
    assert not retried().commit().published  # no image lacks the maps any more


def test_maps_that_images_lack_are_replaced_at_once(layout: RunLayout, tmp_path: Path) -> None:
    plain = RunLayout(tmp_path / "other" / "RUN")
    shutil.copytree(layout.root, plain.root, ignore=shutil.ignore_patterns("other"))
    assert with_maps(plain, "a").commit().published
    results = results_for(layout, "a", samples_of())
    results.predicted[3] = 6
    output = output_for(layout)
    output.add(SampleColumns.of(samples_of()), results)
    assert output.commit().published
    again = AddedOutput(layout, read_manifest(layout), 2, "a", 0.3, replace=True)
    again.add(SampleColumns.of(samples_of()), results_for(layout, "a", samples_of()))
    assert again.commit().published and verify(layout.root).problems == []
    wanted, found = rows_of(plain), rows_of(layout)
    assert found == wanted and layout.shard_added("a", 2).read_bytes() == plain.shard_added("a", 2).read_bytes()
