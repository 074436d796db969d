"""Lists that users give are UTF-8, or the error names file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.text_files import read_text


def test_utf8_with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    for encoding in ("utf-8", "utf-8-sig"):
        file.write_bytes("行人\r\nb\n".encode(encoding))
        assert read_text(file) == "行人\r\nb\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ab\ncafé\n".encode("latin-1"), "list.txt, line 2: byte 0xe9 is not UTF-8"),
        ("a\nb\n行人".encode("gbk"), "list.txt, line 3: byte 0xd0 is not UTF-8"),
        (b"\xef\xbb\xbfa\n\xff", "list.txt, line 2: byte 0xff is not UTF-8"),
        ("a\n".encode("utf-16"), "list.txt, line 1: the file is UTF-16; save it as UTF-8"),
        (b"ok\n" + "a\n".encode("utf-16-le"), "list.txt, line 2: a NUL byte"),
    ],
)
def test_another_encoding_is_one_line_with_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_text(file)
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"cannot read .*none\.txt: No such file"):
        read_text(tmp_path / "none.txt")
