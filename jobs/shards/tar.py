"""Strict streaming over a tar: every member, or an error that says where the archive breaks off (no torch).

tarfile ends in silence at a damaged header and at a file cut between two members; both would lose images unnoticed.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, cast

from jobs.errors import ShardError
from jobs.image_names import MASK_SUFFIX, PLAIN_NAME, is_image
from jobs.phrases import counted, one_line
from jobs.shards.access import ShardAccess
from jobs.shards.limits import MAX_MEMBER_BYTES, MAX_STORED_BYTES, Expanding, shortened
from jobs.shards.opening import open_shard
from jobs.shards.plan_beside import ListedTar, listed_tar
from jobs.shards.remote import RemoteError
from jobs.shards.shard_bytes import ShardBytes, parts_sha256
from jobs.shards.tar_format.hashed_stream import HashedStream, decompression
from jobs.shards.tar_format.plain_headers import Forward
from jobs.shards.tar_format.strict_file import BLOCK, StrictTarFile, StrictTarInfo, stored_bytes
from jobs.shards.urls import Shard

# An archive is filled up with zeros to a whole record. A longer tail is of a copy that broke off in a file whose size
# was set before. `tar -b` with a larger record is told too: its zeros look the same, and packing again costs little.
_RECORD = tarfile.RECORDSIZE  # 10,240 bytes
_UNREADABLE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)


class Member(NamedTuple):
    """One regular file, or a link or device, which is not followed (`data` None).

    `offset` is where `data` starts in the tar, None if the tar is compressed. `too_large` is the size of a file that is
    not read because it has more bytes than MAX_MEMBER_BYTES (`data` None), else None.
    """

    name: str
    offset: int | None
    data: bytes | None
    too_large: int | None = None


class TarReader:
    """Iterates over the members of a shard in tar order; a context manager.

    Raises ShardError, naming the shard, the place and what to do, for a tar that is truncated, damaged, unreadable,
    no tar at all, followed by another one or by more zeros than a record has, changed while it was read, or other than
    shards.json beside it says. `bytes_read` counts what came from the file or stream. `whole` tells its bytes from any
    others, once all members were read.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._stream: IO[bytes] | None = None
        self._source: HashedStream | None = None
        self._before: os.stat_result | None = None  # the file's state when it was opened
        self._last: str | None = None  # the name of the last member
        self._images = 0
        self.whole: ShardBytes | None = None

    def __enter__(self) -> TarReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # it was read as far as it was wanted
                self._stream.close()

    @property
    def bytes_read(self) -> int:
        """Bytes taken so far, before decompression."""
        return self._source.count if self._source else 0

    def __iter__(self) -> Iterator[Member]:
        try:
            yield from self._members()
        except RemoteError as error:
            message = f"{self.shard.name}: reading {self.shard.url} broke off: {error} ({self._place()}); try again"
            raise ShardError(message) from error
        except _UNREADABLE as error:
            raise self._broken_error(one_line(error)) from error

    def _members(self) -> Iterator[Member]:
        self._before = self._file_facts()
        self._stream = self._open()
        self._source = source = HashedStream(self._stream)
        if not source.start:
            raise self._broken_error("the file is empty")
        decompress = decompression(source.start)
        plain = cast(IO[bytes], source if decompress is None else Expanding(decompress(source), source))
        with StrictTarFile(fileobj=cast(IO[bytes], Forward(plain)), tarinfo=StrictTarInfo) as tar:
            while True:
                if (plain_file := tar.next_plain()) is not None:
                    yield self._plain_member(*plain_file, has_offsets=decompress is None)
                elif (info := tar.next()) is None:
                    break
                elif not info.isdir():
                    yield self._member(tar, info, has_offsets=decompress is None)
            self._check_end(tar)
        while source.read(1 << 16):  # what a compressed stream's reader left
            pass
        self.whole = self._whole(source)
        self._compare(listed_tar(Path(self.shard.url)) if self.shard.is_local else None, self.whole)

    def _file_facts(self) -> os.stat_result | None:
        """The state of a local file; None where there is none, or where it cannot be looked at."""
        if not self.shard.is_local:
            return None
        with contextlib.suppress(OSError):
            return Path(self.shard.url).stat()
        return None

    def file_so_far(self) -> ShardBytes | None:
        """What tells the file from any others where it was not read to its end; None where it is not a local file.

        Raises ShardError where the file changed meanwhile.
        """
        after = self._unchanged()
        return None if after is None else self._local_bytes(after, None)

    def _whole(self, source: HashedStream) -> ShardBytes:
        """The bytes that were read. Raises ShardError where the file changed meanwhile."""
        after, sha256 = self._unchanged(), source.digest.hexdigest()
        if after is None:
            return ShardBytes(size=source.count, sha256=sha256)
        if after.st_size != source.count:
            raise self._written_error()
        return self._local_bytes(after, sha256)

    def _unchanged(self) -> os.stat_result | None:
        """The state of the local file, which is that of before. Raises ShardError where it is another."""
        before, after = self._before, self._file_facts()
        if before is None or after is None or not Path(self.shard.url).is_file():
            return None
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise self._written_error()
        return after

    def _local_bytes(self, facts: os.stat_result, sha256: str | None) -> ShardBytes:
        parts = parts_sha256(Path(self.shard.url), facts.st_size)
        return ShardBytes(size=facts.st_size, sha256=sha256, modified_ns=facts.st_mtime_ns, parts_sha256=parts)

    def _written_error(self) -> ShardError:
        return ShardError(f"{self.shard.name}: {self.shard.url} was written while it was read; try again")

    def _compare(self, listed: ListedTar | None, whole: ShardBytes) -> None:
        """Raises ShardError where the tar is not the one that shards.json lists."""
        if listed is None:
            return
        if listed.images is not None and self._images < listed.images:
            raise self._broken_error(f"it has {counted(self._images, 'image')} and {listed.plan} lists {listed.images}")
        if listed.sha256 is not None and whole.sha256 != listed.sha256:
            raise ShardError(
                f"{self.shard.name}: {self.shard.url} has other bytes than {listed.plan} lists (SHA-256 differs): "
                "it was damaged or replaced; pack it again with `promptsg shard`"
            )

    def _open(self) -> IO[bytes]:
        try:
            return open_shard(self.shard.url if not self.shard.recorded else ShardAccess().find([self.shard])[0].url)
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise ShardError(f"{self.shard.name}: cannot open {self.shard.url}: {reason}") from error

    def _member(self, tar: StrictTarFile, info: tarfile.TarInfo, *, has_offsets: bool) -> Member:
        too_large = info.size if info.isreg() and info.size > MAX_MEMBER_BYTES else None
        if stored_bytes(info) > MAX_STORED_BYTES:
            raise self._broken_error(f"member {shortened(info.name)!r} has {stored_bytes(info):,} bytes")
        data = tar.data_of(info) if info.isreg() and too_large is None else None
        if data is not None and len(data) != info.size:
            raise self._broken_error(f"member {info.name!r} breaks off")
        self._last = name = text_of(info.name)
        self._images += is_image(name) and not name.lower().endswith(MASK_SUFFIX)
        return Member(name=name, offset=info.offset_data if has_offsets else None, data=data, too_large=too_large)

    def _plain_member(self, name: str, offset: int, data: bytes, *, has_offsets: bool) -> Member:
        """As `_member`, for a file of which nothing needs to be looked into."""
        self._last = name
        if (plain := PLAIN_NAME.fullmatch(name)) is not None:
            self._images += plain[2] != "json"
        else:
            self._images += is_image(name) and not name.lower().endswith(MASK_SUFFIX)
        return Member(name, offset if has_offsets else None, data)

    def _check_end(self, tar: StrictTarFile) -> None:
        """The archive must end in two zero blocks, and nothing but zeros may follow."""
        ended_by = type(tar.ended_by).__name__
        if ended_by != "EOFHeaderError":  # tarfile's name for a zero block
            damaged = ended_by == "InvalidHeaderError"
            raise self._broken_error("a header is damaged" if damaged else "the end-of-archive blocks are missing")
        if tar.fileobj.read(BLOCK) != bytes(BLOCK):
            raise self._broken_error("the second end-of-archive block is missing")
        zeros = 2 * BLOCK
        while rest := tar.fileobj.read(1 << 16):  # a `pipe:` command that failed says so at its end
            if rest.strip(b"\0"):
                raise self._broken_error("more data follows the end of the archive (several tars in one file?)")
            zeros += len(rest)
        if zeros >= _RECORD + 2 * BLOCK:
            raise self._broken_error(
                f"it ends in {zeros:,} bytes of zeros, more than a record's {_RECORD:,}: members are lost, or it was "
                "packed with a larger `tar -b`"
            )

    def _broken_error(self, reason: str) -> ShardError:
        problem = f"{self.shard.url} is not a whole tar: {reason} ({self._place()})"
        return ShardError(f"{self.shard.name}: {problem}; copy or pack it again")

    def _place(self) -> str:
        last = "the start" if self._last is None else f"member {shortened(self._last)!r}"
        return f"after {last}, {self.bytes_read:,} bytes read"


def text_of(name: str) -> str:
    """A member's name as text that can be stored: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
