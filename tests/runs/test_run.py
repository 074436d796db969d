"""Reading a run: the example in the documentation, rows and maps in any order, and what is refused."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.errors import UserError
from jobs.runs.rows.lookup import rows_at
from jobs.runs.run import open_run, positions_by_shard
from jobs.shards.samples import Sample
from tests.support.made_runs import made_manifest, made_shard

MAPS = ("mim_attention", "gradcam++/mim")
NAMES = ("gallery-0", "query-0", "query-1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of six images; the fourth image of each has failed, and the third shard is not done."""
    root = tmp_path_factory.mktemp("run") / "RUN"
    manifest = made_manifest(root, NAMES, MAPS)
    for number, name in enumerate(NAMES[:2]):
        samples = [Sample(key=f"{name}/{row}", tar_index=row, pid=1 + row // 4, camid=0) for row in range(6)]
        samples[3].fail("image_corrupt", "made up")
        rng = np.random.default_rng(number)
        made_shard(root, manifest, name, samples, **{m: rng.random((5, 8, 4)).astype(np.float32) for m in MAPS})
    return root


def test_the_example_in_the_documentation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(open_run, globs={"open_run": open_run})
    assert len(example.examples) >= 4
    assert doctest.DocTestRunner().run(example).failed == 0


def test_maps_come_in_the_order_of_the_rows(root: Path) -> None:
    run = open_run(root)
    table = run.metadata().to_table()
    good = table.filter(pa.compute.is_valid(table["h5_row"])).take([7, 0, 9, 0, 4])
    maps = run.maps_of(MAPS[1], good)
    for row, found in zip(good.to_pylist(), maps, strict=True):
        np.testing.assert_array_equal(found, run.read_maps(MAPS[1], row["shard"])[row["h5_row"]])
    np.testing.assert_array_equal(run.maps_of(MAPS[1], good.to_pylist()), maps)
    assert run.maps_of(MAPS[1], good.slice(0, 0)).shape == (0, 0, 0)
    assert run.maps_of(MAPS[1], []).shape == (0, 0, 0)
    with pytest.raises(UserError, match="a row without h5_row has no map"):
        run.maps_of(MAPS[0], table)


def test_rows_of_a_shard_are_all_a_slice_or_picked(root: Path) -> None:
    run = open_run(root)
    everything = run.read_features("query-0")
    assert everything.shape == (5, 12)
    np.testing.assert_array_equal(run.read_features("query-0", slice(1, 3)), everything[1:3])
    np.testing.assert_array_equal(run.read_features("query-0", [4, 0, 4]), everything[[4, 0, 4]])
    assert run.read_features("query-0", []).shape == (0, 12)
    with pytest.raises(UserError, match="the shard 'query-1' is not done"):
        run.read_features("query-1")


def test_rows_at_places_keep_their_order(root: Path) -> None:
    run = open_run(root)
    places = pa.table({"shard": ["query-0", "gallery-0", "query-0"], "tar_index": [5, 1, 0]})
    assert rows_at(run, places)["key"].to_pylist() == ["query-0/5", "gallery-0/1", "query-0/0"]
    assert rows_at(run, places.slice(0, 0), ["key"]).to_pydict() == {"key": []}
    with pytest.raises(UserError, match="the shard 'query-1' is not done"):
        rows_at(run, pa.table({"shard": ["query-1"], "tar_index": [0]}))


def test_positions_by_shard() -> None:
    found = positions_by_shard(pa.chunked_array([["b", "a"], ["b"], []], pa.string()))
    assert {shard: positions.tolist() for shard, positions in found.items()} == {"b": [0, 2], "a": [1]}
    assert positions_by_shard(pa.chunked_array([], pa.string())) == {}


def test_the_dataset_is_read_again_only_when_a_file_has_changed(root: Path) -> None:
    run = open_run(root)
    before = run.metadata()
    assert run.metadata() is before and run.metadata(["query-0"]).count_rows() == 6
    path = run.layout.shard_metadata("query-0")
    path.write_bytes(path.read_bytes())
    assert run.metadata() is not before
