"""`verify` on whole runs, and on every kind of damage."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.atomic import sha256_of
from jobs.runs.integrity.seal import KEY, UNSEALED, seal
from jobs.runs.verify import verify
from tests.runs.conftest import NAMES, promptsg
from tests.support.made_runs import made_manifest, made_samples, made_shard


def test_verify_names_every_kind_of_damage(made: Path) -> None:
    assert verify(made).exit_status == 0 and verify(made).intact == 3
    code, said = promptsg("verify", made)
    assert code == 0 and "3 of 3 shards are intact, 120 rows" in said
    maps = made / "maps" / f"{NAMES[0]}.h5"
    whole = maps.read_bytes()
    for place in (2000, len(whole) // 2, len(whole) - 3):  # one bit anywhere
        maps.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert verify(made).problems == [
            f"{NAMES[0]}: {NAMES[0]}.h5 has other bytes than were written (SHA-256 differs)"
        ]
    maps.write_bytes(whole[:-1])
    assert "bytes" in verify(made).problems[0]
    maps.unlink()
    assert "is gone" in verify(made).problems[0]
    maps.write_bytes(whole)
    metadata = made / "metadata" / f"{NAMES[1]}.parquet"
    metadata.write_bytes(metadata.read_bytes()[:200])
    code, said = promptsg("verify", made)
    assert code == 1 and f"damaged: {NAMES[1]}: unreadable" in said and "2 of 3 shards are intact" in said
    metadata.unlink()
    assert verify(made).exit_status == 3 and verify(made).missing == [NAMES[1]]


def rewrite(root: Path, name: str, rows: pa.Table | None = None, **facts: object) -> None:
    """Writes a shard's metadata anew, with other rows or facts, and with the hash of the HDF5 file as it is now."""
    maps, metadata = root / "maps" / f"{name}.h5", root / "metadata" / f"{name}.parquet"
    table = pq.read_table(metadata)
    footer = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    footer |= {"promptsg.h5_size": str(maps.stat().st_size), "promptsg.h5_sha256": sha256_of(maps)}
    footer |= {f"promptsg.{key}": str(value) for key, value in facts.items()}
    write_sealed((table if rows is None else rows).replace_schema_metadata(footer), metadata)


def write_sealed(table: pa.Table, path: Path) -> None:
    """Writes a Parquet file whose hash is right, as a program that wrote other values would."""
    footer = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata({**footer, KEY: UNSEALED}), path)
    with path.open("r+b") as file:
        seal(file)


def with_column(root: Path, name: str, column: str, values: dict[int, object]) -> pa.Table:
    """A shard's rows with other values in some rows of a column."""
    table = pq.read_table(root / "metadata" / f"{name}.parquet")
    changed = table[column].to_pylist()
    for row, value in values.items():
        changed[row] = value
    position = table.schema.get_field_index(column)
    return table.set_column(position, table.schema.field(column), pa.array(changed, table.schema.field(column).type))


def test_verify_compares_keys(made: Path) -> None:
    """The hash tells metadata and maps of different shards; swapped keys are found by reading."""
    with h5py.File(made / "maps" / f"{NAMES[0]}.h5", "r+") as file:
        keys = file["key"][:]
        file["key"][:] = keys[::-1]
    rewrite(made, NAMES[0])
    assert verify(made).problems == [f"{NAMES[0]}: the keys of maps and metadata differ"]


@pytest.mark.parametrize(
    ("column", "values", "problems"),
    [
        ("h5_row", {0: 1, 1: 0}, ["h5_row does not rise from 0 without a gap"]),
        ("tar_index", {3: 4, 4: 3}, ["tar_index does not rise from 0 without a gap"]),
        ("status", {0: "image_corrupt"}, ["1 row has a status and an h5_row that contradict each other"]),
        ("shard", {7: "gallery-9"}, ["has rows of another shard"]),
        ("key", {0: "k5"}, ["the keys of maps and metadata differ"]),  # neither the smallest nor the largest
        ("status", {0: "no_label"}, []),  # mim_attention needs no target
    ],
)
def test_verify_compares_rows(made: Path, column: str, values: dict[int, object], problems: list[str]) -> None:
    facts = {"partial": '{"no_label": 1}'} if "no_label" in values.values() else {}
    rewrite(made, NAMES[1], with_column(made, NAMES[1], column, values), **facts)
    assert verify(made).problems == [f"{NAMES[1]}: {problem}" for problem in problems]


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"images": 5}, "36 rows have maps, the footer counts 5"),
        ({"failed": '{"image_corrupt": 3}'}, "4 rows failed, the footer counts 3"),
        ({"fingerprint": "abc"}, "was made by another run (fingerprint abc)"),
        ({"h5_sha256": "abc"}, f"{NAMES[1]}.h5 has other bytes than were written (SHA-256 differs)"),
        ({"h5_size": 5}, f"{NAMES[1]}.h5 has "),
        ({"keys": '["a", "b"]'}, "its smallest and largest keys are ("),
        ({"h5_size": "five"}, "unreadable: "),
    ],
)
def test_verify_compares_the_footer(made: Path, facts: dict[str, object], problem: str) -> None:
    rewrite(made, NAMES[1], **facts)
    (found,) = verify(made).problems
    assert found.startswith(f"{NAMES[1]}: {problem}")


def test_verify_compares_values(tmp_path: Path) -> None:
    """A map is NaN exactly where the row has no target, if it is a map of the target."""
    manifest = made_manifest(tmp_path, ["a"], ["mim_attention", "gradcam/mim"])
    samples = made_samples(5)
    samples[1].status, samples[1].error = "no_label", "made up"
    maps = np.ones((5, 16, 8), np.float32)
    maps[1] = np.nan
    arrays = {"mim_attention": np.ones((5, 16, 8), np.float32), "gradcam/mim": maps}
    made_shard(tmp_path, manifest, "a", samples, features=np.ones((5, 12), np.float32), **arrays)
    assert verify(tmp_path).problems == []
    for dataset, row, value in (
        ("maps/gradcam/mim", 1, 0.5),
        ("maps/mim_attention", 1, np.nan),
        ("features", 3, np.inf),
    ):
        with h5py.File(tmp_path / "maps" / "a.h5", "r+") as file:
            before = file[dataset][row]
            file[dataset][row] = value
        rewrite(tmp_path, "a")
        assert verify(tmp_path).problems == [f"a: {dataset} has non-finite values, or maps in rows without a target"]
        with h5py.File(tmp_path / "maps" / "a.h5", "r+") as file:
            file[dataset][row] = before
    with h5py.File(tmp_path / "maps" / "a.h5", "r+") as file:
        file["features"].resize(4, axis=0)
    rewrite(tmp_path, "a")
    assert verify(tmp_path).problems == ["a: features has 4 rows instead of 5"]


def test_verify_names_shards_that_are_not_listed_and_other_columns(made: Path) -> None:
    metadata = made / "metadata"
    write_sealed(
        pq.read_table(metadata / f"{NAMES[0]}.parquet").drop_columns(["seq"]), metadata / f"{NAMES[0]}.parquet"
    )
    (metadata / "train-7.parquet").write_bytes(b"")
    assert verify(made).problems == [
        "train-7: is not in run.json",
        f"{NAMES[0]}: {NAMES[0]}.parquet has other columns than the run",
    ]
