"""Files at an address, by fsspec: http(s), s3 and whatever else it has a file system for (no torch).

A file is read from its start, or by byte ranges. Whatever goes wrong becomes a RemoteError of one line.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from jobs.errors import UserError
from jobs.phrases import did_you_mean, one_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_BLOCK = 8 << 20  # bytes asked of an object store at once
_BUFFER = 1 << 20
_CONNECT_SECONDS, _SILENT_SECONDS = 30, 120
_OF_THE_EXTRA = ("http", "https", "s3")  # what `promptsg-attention[remote]` installs


class RemoteError(OSError):
    """A remote file that cannot be read; the message is the reason, in one line."""


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """A file's `size` in bytes, None if it is not known, and whether byte ranges of it can be read."""

    size: int | None
    has_ranges: bool


def check_scheme(url: str) -> None:
    """Raises UserError if there is no way to read the address: its scheme is unknown, or a package is missing."""
    import fsspec

    scheme = url.partition(":")[0].lower()
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        hint = did_you_mean(scheme, ["pipe", *fsspec.available_protocols()])
        raise UserError(f"{url}: the scheme {scheme!r} is not known{hint}") from error
    except ImportError as error:
        if scheme in _OF_THE_EXTRA:
            raise UserError(
                f"{url}: reading {scheme} addresses needs packages that are not installed: "
                "pip install 'promptsg-attention[remote]'"
            ) from error
        raise UserError(f"{url}: {one_line(error)}") from error


def open_remote(url: str) -> BinaryIO:
    """The file's bytes from the start, as they are on the server. Raises RemoteError, also while it is read.

    Over HTTP this is one stream, which needs no byte ranges.
    """
    with _one_line_errors():
        system, path = _file_system(url)
        if _is_http(url):
            stream = system.open(path, "rb", block_size=0)
        else:
            stream = system.open(path, "rb", block_size=_BLOCK, cache_type="readahead")
    return io.BufferedReader(_RemoteStream(stream), _BUFFER)


def read_ranges(url: str, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
    """The bytes of a file from each start up to its end, requested together. Raises RemoteError.

    The server must serve byte ranges: see `describe`.
    """
    with _one_line_errors():
        system, path = _file_system(url)
        found = system.cat_ranges([path] * len(starts), list(starts), list(ends), on_error="raise")
        return [_bytes_or_raise(data) for data in found]


def describe(url: str) -> FileFacts:
    """What the server says of a file. Raises RemoteError if it does not exist or the server does not answer."""
    with _one_line_errors():
        system, path = _file_system(url)
        if not _is_http(url):
            return FileFacts(size=system.info(path)["size"], has_ranges=True)
        from fsspec.asyn import sync

        found: FileFacts = sync(system.loop, _first_byte, system, path)
        return found


def _bytes_or_raise(found: bytes | Exception) -> bytes:
    """Older versions of fsspec hand out an error in the place of the bytes."""
    if isinstance(found, Exception):
        raise found
    return bytes(found)


async def _first_byte(system: AbstractFileSystem, url: str) -> FileFacts:
    """Requests one byte: the status says whether ranges are served. A whole file that comes instead is not read."""
    session = await system.set_session()
    async with session.get(system.encode_url(url), headers={"Range": "bytes=0-0"}) as response:
        response.raise_for_status()
        has_ranges = response.status == 206
        size = response.headers.get("Content-Length")
        if has_ranges:
            size = response.headers.get("Content-Range", "").rpartition("/")[2]
    return FileFacts(size=int(size) if size and size.isdigit() else None, has_ranges=has_ranges)


class _RemoteStream(io.RawIOBase):
    """A file of fsspec, whose errors are RemoteErrors."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with _one_line_errors():
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(Exception):  # nothing was written, so nothing can be lost
                self._stream.close()
        super().close()


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http:", "https:"))


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """fsspec's file system for an address, and the file's path in it. fsspec keeps file systems for later calls."""
    import fsspec

    check_scheme(url)
    system, path = fsspec.core.url_to_fs(url, **(_http_options(url) if _is_http(url) else {}))
    return system, path


def _http_options(url: str) -> dict[str, object]:
    """Time limits on silence instead of on the whole transfer, proxies from the environment, bytes as they are stored.

    An address with percent signs is quoted already, and quoting it again would break its signature.
    """
    from aiohttp import ClientTimeout

    client = {
        "timeout": ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS),
        "trust_env": True,
        "headers": {"Accept-Encoding": "identity"},
        "auto_decompress": False,
    }
    return {"client_kwargs": client, "encoded": "%" in url}


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turns whatever a file system raises into a RemoteError: each has errors of its own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise RemoteError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """An error of a file system in one line."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        return _reason(error.__cause__)  # fsspec's word for any error of HTTP
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return one_line(error)
