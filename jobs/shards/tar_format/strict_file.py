"""tarfile's reader of headers, made strict: it says why the headers ended, and reads plain files itself (no torch)."""

from __future__ import annotations

import tarfile
from typing import IO, Any, cast

from jobs.shards.limits import MAX_HEADER_BYTES, MAX_MEMBER_BYTES
from jobs.shards.tar_format.plain_headers import Forward, plain_member

BLOCK = tarfile.BLOCKSIZE  # bytes
# The headers that are read whole, for the name and attributes of the member after them.
_NAME_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip


class StrictTarFile(tarfile.TarFile):
    """A TarFile that knows why reading headers ended, and reads plain ones itself: tarfile takes four times as long."""

    fileobj: Forward  # type: ignore[assignment]
    firstmember: tarfile.TarInfo | None
    ended_by: tarfile.HeaderError | None = None

    def next(self) -> tarfile.TarInfo | None:
        """The next member; None where the headers end."""
        vars(self)["members"] = []  # or the archive's whole index stays in memory
        if self.firstmember is None and self.offset == 0 and self.fileobj.tell() > 0:
            return None  # the archive begins with its end: tarfile of Python 3.10 would read before the start
        return super().next()

    def next_plain(self) -> tuple[str, int, bytes] | None:
        """(name, where its bytes start, the bytes) of the next member, if it is a plain file; None leaves it to `next`.

        Its header is a plain one, its name is ASCII, and it is not too large. Raises ReadError where it breaks off.
        """
        if self.firstmember is not None or self.pax_headers or (plain := self._plain_header()) is None:
            return None
        name, size = plain
        if size > MAX_MEMBER_BYTES or not name.isascii():
            return None
        file = self.fileobj
        start = self.offset + BLOCK
        file.seek(start)
        self.offset = start + -(-size // BLOCK) * BLOCK
        data = file.read(size)
        if len(data) != size:
            raise tarfile.ReadError("unexpected end of data")
        return name.decode("ascii"), start, data

    def _plain_header(self) -> tuple[bytes, int] | None:
        """(name, size) of the next member, if its header is a plain one."""
        file = self.fileobj
        if self.offset != file.tell():
            if self.offset == 0:  # the archive begins with its end
                return None
            file.seek(self.offset - 1)
            if not file.read(1):
                raise tarfile.ReadError("unexpected end of data")
        return plain_member(file.peek(BLOCK))

    def data_of(self, info: tarfile.TarInfo) -> bytes:
        """The bytes of a regular file that was read last. Raises ReadError where the archive breaks off."""
        if info.sparse is not None:
            return cast(IO[bytes], self.extractfile(info)).read()
        self.fileobj.seek(info.offset_data)
        data = self.fileobj.read(info.size)
        if len(data) != info.size:
            raise tarfile.ReadError("unexpected end of data")
        return data


def stored_bytes(info: tarfile.TarInfo) -> int:
    """The bytes that a member takes in the tar: a sparse one claims more."""
    parts = cast("list[tuple[int, int]] | None", info.sparse)  # (offset, size)
    return info.size if parts is None else sum(size for _, size in parts)


class StrictTarInfo(tarfile.TarInfo):
    """Tells its StrictTarFile why reading headers ended."""

    @classmethod
    def frombuf(cls, *words: Any) -> StrictTarInfo:  # noqa: ANN401 -- tarfile's own parameters
        """As of TarInfo. Raises ReadError for a header whose name or attributes are too long."""
        info = super().frombuf(*words)
        if info.type in _NAME_HEADERS and info.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header has {info.size:,} bytes")
        return info

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> StrictTarInfo:
        """As of TarInfo."""
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            cast(StrictTarFile, tar).ended_by = error
            raise
