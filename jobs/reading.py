"""Files that a user or an earlier command left: an error while one is read names it and what to do, on one line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from jobs.errors import UserError
from jobs.system_errors import cause_of

_LONGEST_REASON = 200  # characters: some readers quote the file


@contextlib.contextmanager
def reading(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Around the lines that read one file: what they raise becomes a UserError with path, `what` it is, and `remedy`.

    A reader of HDF5, zip archives or pickles raises nearly any error about damaged bytes, and most do not name the
    file. So nothing but the reading belongs inside. Memory that does not suffice stays what it is.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(path, what, error, remedy) from error


def unreadable(path: Path, what: str, error: Exception, remedy: str) -> UserError:
    """The error for a file that cannot be opened, or whose content is not that of `what`."""
    return UserError(f"cannot read {path} as {what}: {_reason(error)}; {remedy}")


def check_files(paths: Iterable[Path]) -> None:
    """Raises UserError for the first file that cannot be opened: early, before work that needs it only later."""
    for path in paths:
        try:
            path.open("rb").close()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error


def read_json(path: Path, what: str, remedy: str) -> object:
    """The content of a JSON file, whatever its type. Raises UserError naming the file."""
    with reading(path, what, remedy):
        return json.loads(path.read_bytes())


def read_json_object(path: Path, what: str, remedy: str) -> dict[str, object]:
    """The object in a JSON file. Raises UserError naming the file, also where it holds another type."""
    content = read_json(path, what, remedy)
    if not isinstance(content, dict):
        raise unreadable(path, what, TypeError(f"a JSON object was expected, not {type(content).__name__}"), remedy)
    return content


def _reason(error: Exception) -> str:
    """Why, on one line of bounded length."""
    reason = cause_of(error)
    return reason if len(reason) <= _LONGEST_REASON else reason[:_LONGEST_REASON] + "..."
