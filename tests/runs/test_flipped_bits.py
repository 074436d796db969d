"""Single bits flipped over all files of a tiny run: `verify` notices each one that could change what is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from jobs.errors import UserError
from jobs.runs.finalize import finalize
from jobs.runs.integrity.seal import KEY, UNSEALED, seal, seal_problem
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import read_manifest
from jobs.runs.run import open_run
from jobs.runs.shard_check import check_shard
from jobs.runs.verify import verify
from tests.runs.test_verify import rewrite
from tests.support.made_runs import made_manifest, made_samples, made_shard

FLIPS = 250  # in each file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One shard of 12 rows, one of which has failed."""
    root = tmp_path / "RUN"
    made_shard(root, made_manifest(root, ["a"]), "a", made_samples(12))
    assert verify(root).exit_status == 0
    return root


@contextmanager
def flipped(path: Path, place: int, bit: int) -> Iterator[None]:
    """One bit of a file is another while this is open."""

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1 << bit]))

    flip()
    try:
        yield
    finally:
        flip()


def flips(path: Path, every: int | None = None) -> Iterator[tuple[int, int]]:
    """(byte, bit) places over the whole file; `every` bytes one, by default so that there are FLIPS."""
    size = path.stat().st_size
    step = every or max(1, size // FLIPS)
    for number, place in enumerate(range(0, size, step)):
        yield place, number % 8


def noticed(root: Path) -> bool:
    try:
        return verify(root).exit_status == 1
    except UserError:
        return True


@pytest.mark.parametrize("name", ["metadata/a.parquet", "maps/a.h5"])
def test_every_flip_in_a_shards_files_is_noticed(run: Path, name: str) -> None:
    layout, manifest = RunLayout(run), read_manifest(RunLayout(run))
    for place, bit in [*flips(run / name), (0, 0), ((run / name).stat().st_size - 1, 7)]:
        with flipped(run / name, place, bit):
            assert check_shard("a", layout, manifest).problems, (place, bit)
    assert verify(run).exit_status == 0


def test_every_flip_in_the_footer_that_queries_trust_is_noticed(run: Path) -> None:
    """The statistics in the footer decide which rows a query skips: a flipped one used to pass as intact."""
    path = run / "metadata" / "a.parquet"
    layout, manifest = RunLayout(run), read_manifest(RunLayout(run))
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    found = pq.read_metadata(path).row_group(0).column(manifest.columns.names.index("status")).statistics
    assert (found.min, found.max) == ("image_corrupt", "ok")
    skipped = 0
    for place in range(footer, len(data)):
        if data[place : place + 2] != b"ok":
            continue
        with flipped(path, place, 1):
            assert check_shard("a", layout, manifest).problems == (
                "a: a.parquet has other bytes than were written (SHA-256 differs)",
            )
            rows = ds.dataset(path, schema=manifest.columns).to_table(filter=ds.field("status") == "ok")
            skipped += len(rows) == 0
    assert skipped  # so this is not harmless
    # No other byte of the footer goes without notice either, the place of the hash included.
    for place in range(footer, len(data), 23):
        with flipped(path, place, place % 8):
            assert check_shard("a", layout, manifest).problems, place


def test_every_flip_in_run_json_is_noticed_or_changes_nothing(run: Path) -> None:
    path = run / "run.json"
    content = json.loads(path.read_bytes())
    for place, bit in flips(path, every=1):
        with flipped(path, place, bit):
            if noticed(run):
                continue
            found = json.loads(path.read_bytes())  # only the name of its own hash may be another, as in earlier runs
            assert {key: value for key, value in found.items() if key in content} == {
                key: value for key, value in content.items() if key in found
            }
            assert content.keys() - found.keys() <= {"sha256"}, (place, bit)


def test_every_flip_in_the_joined_metadata_is_noticed(run: Path) -> None:
    finalize(run)
    assert verify(run).exit_status == 0
    for place, bit in flips(run / "metadata.parquet", every=499):
        with flipped(run / "metadata.parquet", place, bit):
            assert noticed(run), (place, bit)


def test_a_joined_file_of_another_run_is_noticed(run: Path, tmp_path: Path) -> None:
    made_shard(tmp_path / "B", made_manifest(tmp_path / "B", ["b"]), "b", made_samples(12))
    finalize(tmp_path / "B")
    (tmp_path / "B" / "metadata.parquet").rename(run / "metadata.parquet")
    assert verify(run).problems == ["metadata.parquet was made of another run; write it again with `promptsg finalize`"]


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"shard": "b"}, "a: holds the shard 'b' by its footer"),
        ({"failed": '{"too_large": 1}'}, "a: its rows failed as {'image_corrupt': 1}, the footer counts"),
        ({"partial": '{"no_label": 1}'}, "a: its rows lack a target as {}, the footer counts {'no_label': 1}"),
        ({"zero_maps": '{"mim_attention": 2}'}, "a: maps/mim_attention has 0 all-zero maps, the footer counts 2"),
    ],
)
def test_counts_in_the_footer_are_compared(run: Path, facts: dict[str, object], problem: str) -> None:
    """Also where the file's hash is right."""
    rewrite(run, "a", **facts)
    (found,) = verify(run).problems
    assert found.startswith(problem)


def test_a_shard_that_is_listed_twice_and_altered_settings_are_refused_by_all(run: Path) -> None:
    path = run / "run.json"
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps({**content, "shards": content["shards"] * 2}))
    for read in (open_run, verify, finalize):
        with pytest.raises(UserError, match=r"run\.json lists the shard 'a' twice"):
            read(run)
    path.write_text(json.dumps({**content, "asked": {**content["asked"], "target": "label"}}))
    for read in (open_run, verify, finalize):
        with pytest.raises(UserError, match=r"run\.json was altered: its settings or shards are not those of its"):
            read(run)
    path.write_text(json.dumps({**content, "checkpoint": "elsewhere.pth"}))  # no part of the fingerprint
    for read in (open_run, verify, finalize):
        with pytest.raises(
            UserError, match=r"run\.json has another content than was written .SHA-256 differs.; put its"
        ):
            read(run)


def test_shards_that_are_all_of_another_run_are_one_line(tmp_path: Path) -> None:
    for root, target in ((tmp_path / "A", "predicted"), (tmp_path / "B", "feature")):
        manifest = made_manifest(root, ["a", "b"], target=target)
        for name in ("a", "b"):
            made_shard(root, manifest, name, made_samples(3))
    made_by = open_run(tmp_path / "A").manifest.fingerprint
    shutil.copy(tmp_path / "B/run.json", tmp_path / "A/run.json")
    assert verify(tmp_path / "A").problems == [
        f"{tmp_path / 'A/run.json'} is not that of the 2 done shards, which were all made by another run "
        f"(fingerprint {made_by}); put the right file back"
    ]
    shutil.copy(tmp_path / "B/metadata/a.parquet", tmp_path / "A/metadata/a.parquet")  # no longer all of them
    assert verify(tmp_path / "A").problems[-1] == f"b: was made by another run (fingerprint {made_by})"


def test_a_file_without_a_seal_is_a_problem_only_in_a_run_that_seals(run: Path, tmp_path: Path) -> None:
    path = run / "metadata" / "a.parquet"
    table = pq.read_table(path)
    facts = {key: value for key, value in table.schema.metadata.items() if key.decode() != KEY}
    pq.write_table(table.replace_schema_metadata(facts), path, write_page_checksum=True)
    assert verify(run).problems == ["a: a.parquet has no hash of itself, or has lost it"]
    content = json.loads((run / "run.json").read_bytes())
    del content["sha256"]
    (run / "run.json").write_text(json.dumps(content))
    assert verify(run).exit_status == 0


def test_a_seal_is_of_all_other_bytes(tmp_path: Path) -> None:
    """Computed here anew, in a file whose footer is longer than what is read of it at first."""
    import hashlib

    path = tmp_path / "wide.parquet"
    table = pa.table({f"column_{n}": [n] for n in range(900)})
    pq.write_table(table.replace_schema_metadata({KEY: UNSEALED}), path)
    before = path.read_bytes()
    assert int.from_bytes(before[-8:-4], "little") > 1 << 15
    with path.open("r+b") as file:
        seal(file)
    digest = hashlib.sha256(before).hexdigest()
    assert path.read_bytes() == before.replace(UNSEALED.encode(), digest.encode())
    assert seal_problem(path, required=True) is None
    pq.write_table(table, path)
    with path.open("r+b") as file, pytest.raises(ValueError, match="no place for its hash"):
        seal(file)
