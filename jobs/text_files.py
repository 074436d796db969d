"""Text files that users give: lists, tables and files of keys, in UTF-8 with or without a byte order mark."""

from __future__ import annotations

from pathlib import Path

from jobs.errors import UserError

_OTHER_ENCODINGS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


def read_text(file: Path) -> str:
    """The text of a file. Raises UserError naming file and line where it is not UTF-8, or cannot be read."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    for mark, encoding in _OTHER_ENCODINGS:
        if content.startswith(mark):
            raise UserError(f"{file}, line 1: the file is {encoding}; save it as UTF-8")
    if (place := content.find(b"\0")) >= 0:
        raise UserError(
            f"{file}, line {_line(content, place)}: a NUL byte, so this is not UTF-8 text; save it as UTF-8"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec does not count the bytes of a byte order mark.
        line = _line(error.object, error.start)
        found = f"byte 0x{error.object[error.start]:02x}"
        raise UserError(f"{file}, line {line}: {found} is not UTF-8; save the file as UTF-8") from error


def _line(content: bytes, place: int) -> int:
    """The number of the line, from 1 on, that a byte is in."""
    return content.count(b"\n", 0, place) + 1
