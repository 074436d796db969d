"""Who is who: persons, distractors, junk and unknown images, row by row and in tables."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import UserError
from jobs.identity import (
    DISTRACTOR,
    JUNK,
    NOBODY,
    PERSON,
    Role,
    encode_identities,
    identities,
    identity_codes,
    identity_columns,
    identity_name,
    identity_numbers,
    identity_of,
    require_own_pids,
    role_of,
    roles,
    who_is,
)

# (what it is, pid, key, role, identity) by the names of the data sets.
CASES = [
    ("a person of Market-1501", 2, "0002_c1s1_000451_03", PERSON, "2"),
    ("a distractor of Market-1501", 0, "0000_c1s1_000151_01", DISTRACTOR, None),
    ("junk of Market-1501", -1, "-1_c1s1_000401_03", JUNK, None),
    ("a person of DukeMTMC-reID", 7, "0007_c2_f0046182", PERSON, "7"),
    ("a distractor of DukeMTMC-reID", 0, "0000_c2_f0046182", DISTRACTOR, None),
    ("person 0 of MSMT17", 0, "0000_000_01_0303morning_0015_0", PERSON, "0"),
    ("person 0 of MSMT17, cropped", 0, "0000_000_01_0303morning_0015_0_ex", PERSON, "0"),
    ("person 0 of CUHK03-NP", 0, "0000_c1_1", PERSON, "0"),
    ("junk of any name", -1, "0000_c1_1", JUNK, None),
    ("a distractor in a folder", 0, "bounding_box_test/0000_c1s1_000151_01", DISTRACTOR, None),
    ("a distractor whose name says more", 0, "0000_c1s1_000151_01_flipped", DISTRACTOR, None),
    ("a person in a folder that is called like a distractor", 0, "0000_c1s1_000151_01/a", PERSON, "0"),
    ("a person whose name ends like a distractor's", 0, "x0000_c1s1_000151_01", PERSON, "0"),
    ("a person under a name of no data set", 0, "img_0", PERSON, "0"),
    ("a person whose key has a distractor's pid", 12, "0000_c1s1_000151_01", PERSON, "12"),
    ("a person with a large pid", 2**62, "a", PERSON, str(2**62)),
    ("a person below junk", -2, "a", PERSON, "-2"),
    ("unknown", None, "0002_c1s1_000451_03", None, None),
    ("unknown, by a distractor's name", None, "0000_c1s1_000151_01", None, None),
]


# What is stated of an image with pid 2, 0 or -1 under Market's names, and who it then is.
STATED = [
    ((2, None, None), (PERSON, "0002")),
    ((12345, None, None), (PERSON, "12345")),
    ((0, None, None), (DISTRACTOR, None)),
    ((-1, None, None), (JUNK, None)),
    ((None, None, None), (None, None)),
    ((2, PERSON, "test/2"), (PERSON, "test/2")),
    ((2, None, "test/2"), (PERSON, "test/2")),
    ((0, None, "alice"), (PERSON, "alice")),  # only persons have an identity
    ((None, None, "alice"), (PERSON, "alice")),
    ((0, PERSON, None), (PERSON, "0000")),
    ((-1, PERSON, None), (PERSON, None)),  # somebody, and nobody knows who
    ((None, PERSON, None), (PERSON, None)),
    ((2, DISTRACTOR, None), (DISTRACTOR, None)),
    ((2, JUNK, "2"), (JUNK, None)),
]


@pytest.mark.parametrize(("stated", "who"), STATED, ids=str)
def test_what_is_stated_counts_and_the_default_for_the_rest(
    stated: tuple[int | None, Role | None, str | None], who: tuple[str | None, str | None]
) -> None:
    pid, role, identity = stated
    found = who_is(pid, f"{pid or 0:04d}_c1s1_000151_01", role, identity)
    assert (found.role, found.identity) == who


def test_the_default_identity_is_the_pid_as_names_write_it() -> None:
    assert [identity_name(pid) for pid in (0, 7, 12, 9999, 10000, -2)] == [
        "0000",
        "0007",
        "0012",
        "9999",
        "10000",
        "-2",
    ]
    for _, pid, key, role, old in CASES:
        who = who_is(pid, key)
        assert who.role == role and (who.identity is None) == (old is None)
        assert old is None or pid == int(who.identity or "") == int(old)


def test_each_person_of_the_training_split_has_one_pid() -> None:
    require_own_pids([(2, "train/2"), (2, "train/2"), (3, "train/3"), (4, None), (4, "a")])
    with pytest.raises(UserError, match="the pid 2 stands for two persons, 'a/2' and 'b/2', but classes"):
        require_own_pids([(2, "a/2"), (3, "a/3"), (2, "b/2")])
    with pytest.raises(UserError, match="the person 'alice' has two pids, 3 and 5, but classes"):
        require_own_pids([(3, "alice"), (5, "alice")])


def rows(pids: list[int | None], keys: list[str]) -> pa.Table:
    return pa.table({"pid": pa.array(pids, pa.int64()), "key": pa.array(keys, pa.string())})


@pytest.mark.parametrize(("pid", "key", "role", "identity"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_the_default_of_each_data_set(pid: int | None, key: str, role: str | None, identity: str | None) -> None:
    assert role_of(pid, key) == role and identity_of(pid, key) == identity
    assert roles(rows([pid], [key])).to_pylist() == [role]
    assert identities(rows([pid], [key])).to_pylist() == [identity]


def test_a_table_says_of_each_row_what_the_row_says() -> None:
    table = rows([case[1] for case in CASES], [case[2] for case in CASES])
    for some in (table, table.slice(3), pa.concat_tables([table, table.slice(5, 4), table.slice(0, 0)])):
        pairs = list(zip(some["pid"].to_pylist(), some["key"].to_pylist(), strict=True))
        assert roles(some).to_pylist() == [role_of(*pair) for pair in pairs]
        assert identities(some).to_pylist() == [identity_of(*pair) for pair in pairs]


parts = st.sampled_from(
    ["0000", "00000", "000", "0001", "_", "c1", "c", "s1", "f1", "000151", "01", "/", "x", "-1", "é"]
)


@given(st.lists(st.tuples(st.sampled_from([None, -1, 0, 1]), st.lists(parts).map("".join)), max_size=6))
def test_tables_and_rows_agree_on_any_key(images: list[tuple[int | None, str]]) -> None:
    table = rows([pid for pid, _ in images], [key for _, key in images])
    assert roles(table).to_pylist() == [role_of(*image) for image in images]
    assert identities(table).to_pylist() == [identity_of(*image) for image in images]


@pytest.mark.parametrize("empty", [rows([], []), pa.Table.from_batches([], schema=rows([], []).schema)])
def test_an_empty_table_has_nobody(empty: pa.Table) -> None:
    assert roles(empty).to_pylist() == [] and roles(empty).type == pa.string()
    assert identities(empty).to_pylist() == [] and identities(empty).type == pa.string()
    found = identity_codes(empty)
    assert len(found.codes) == len(found.names) == 0 and found.names.type == pa.string()


def test_a_run_with_the_columns_says_it_itself() -> None:
    table = pa.table(
        {
            "role": ["person", "person", "distractor", "junk", None, "junk", "person"],
            "identity": ["train/2", "test/2", None, None, None, "5", None],
        }
    )
    assert identity_columns(["key", "pid", *table.column_names]) == ["role", "identity"]
    assert roles(table).to_pylist() == table["role"].to_pylist()
    # Only persons have an identity, whatever else is written.
    assert identities(table).to_pylist() == ["train/2", "test/2", None, None, None, None, None]
    found = identity_codes(table)
    assert found.names.to_pylist() == ["test/2", "train/2"] and found.codes.tolist() == [1, 0, *[NOBODY] * 5]


def test_a_run_without_the_columns_needs_pid_and_key() -> None:
    assert identity_columns(["shard", "key", "pid", "camid"]) == ["pid", "key"]
    assert identity_columns(["key", "pid", "role"]) == ["pid", "key", "role"]
    table = rows([3, 3], ["a", "b"]).append_column("role", pa.array(["junk", "person"]))
    assert identities(table).to_pylist() == [None, "3"]


def test_codes_are_in_the_order_of_numbers_then_of_texts() -> None:
    names = ["12", "test/3", "2", None, "0012", "-3", "a", "2", "1" * 30, "test/20", ""]
    found = encode_identities(pa.chunked_array([names[:4], [], names[4:]], pa.string()))
    assert found.names.to_pylist() == ["-3", "2", "0012", "12", "", "1" * 30, "a", "test/20", "test/3"]
    back = [None if code == NOBODY else found.names[code].as_py() for code in found.codes.tolist()]
    assert back == names
    numbers = identity_numbers(found.names).to_pylist()
    assert numbers == [-3, 2, 12, 12, None, None, None, None, None]


def test_codes_of_numbers_are_those_of_their_texts() -> None:
    pid = np.random.default_rng(0).integers(-1, 300, 5000)
    table = rows(pid.tolist(), ["0000_c1s1_000151_01"] * len(pid))
    quick, slow = identity_codes(table), encode_identities(identities(table))
    np.testing.assert_array_equal(quick.codes, slow.codes)
    assert quick.names.equals(slow.names) and quick.names.to_pylist() == [str(p) for p in range(1, 300)]
    np.testing.assert_array_equal(quick.codes, np.where(pid > 0, pid - 1, NOBODY))


def test_a_million_rows_take_a_second() -> None:
    pid = np.random.default_rng(0).integers(-1, 20_000, 1_000_000)
    keys = pa.array(["0000_c1s1_000151_01", "0000_000_01_0303morning_0015_0"]).take(pa.array(pid % 2))
    table = pa.table({"pid": pid, "key": keys})
    started = time.process_time()
    found = identity_codes(table)
    texts = identities(table)
    assert time.process_time() - started < 2
    assert texts.null_count == (found.codes == NOBODY).sum() == np.isin(pid, (-1, 0)).sum()
