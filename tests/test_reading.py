"""An error while a file is read names the file and what to do, whatever the reader raised."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import pytest

from jobs.errors import UserError
from jobs.reading import read_json_object, reading

REMEDY = "mine it again"


@pytest.mark.parametrize(
    "error",
    [EOFError(), zipfile.BadZipFile("Bad CRC-32"), KeyError("facts"), RecursionError("too deep"), OSError("no HDF5")],
)
def test_any_error_of_a_reader_becomes_one_line(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "part.npz"
    with pytest.raises(UserError) as found, reading(path, "the part", REMEDY):
        raise error
    assert str(found.value).startswith(f"cannot read {path} as the part: ")
    assert str(found.value).endswith(f"; {REMEDY}") and "\n" not in str(found.value)


def test_what_the_system_says_is_told_without_the_librarys_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(UserError) as found, reading(path, "the HDF5 file", REMEDY), h5py.File(path, "r"):
        pass
    assert str(found.value) == f"cannot read {path} as the HDF5 file: No such file or directory; {REMEDY}"


def test_errors_that_say_more_pass(tmp_path: Path) -> None:
    for error in (UserError("more"), MemoryError()):
        with pytest.raises(type(error)) as found, reading(tmp_path, "the part", REMEDY):
            raise error
        assert found.value is error


@pytest.mark.parametrize("content", [b"", b"[1]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"a": 1'])
def test_json_of_another_type_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as found:
        read_json_object(path, "the manifest", REMEDY)
    assert str(path) in str(found.value) and REMEDY in str(found.value) and len(str(found.value)) < 500
