"""Opens a shard wherever it is: a path, an address such as https:// or s3://, or the output of a command (no torch)."""

from __future__ import annotations

import io
import signal
from typing import BinaryIO

from jobs.processes import end_command, start_command
from jobs.shards.remote import open_remote
from jobs.shards.urls import PIPE, is_local

# How a command ends that still wrote when nobody read: by the word of a shell, and by the signal itself.
_NOBODY_READ = (128 + signal.SIGPIPE, -signal.SIGPIPE)


def open_shard(url: str) -> BinaryIO:
    """A shard's bytes from the start. Raises OSError with a reason of one line, now or while they are read."""
    if url.startswith(PIPE):
        return io.BufferedReader(_CommandOutput(url.removeprefix(PIPE)))
    return open(url, "rb") if is_local(url) else open_remote(url)  # noqa: PTH123 -- the caller closes it


class _CommandOutput(io.RawIOBase):
    """What a shell command writes. At its end, OSError is raised if the command failed."""

    def __init__(self, command: str) -> None:
        self._process = start_command(command)
        assert self._process.stdout is not None
        self._output = self._process.stdout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._output.read(len(buffer))
        buffer[: len(data)] = data
        if not data and (status := self._process.wait()) not in (0, *_NOBODY_READ):
            raise OSError(f"the command failed with exit status {status}")
        return len(data)

    def close(self) -> None:
        """Stops the command where it was not read to its end."""
        if not self.closed:
            self._output.close()
            end_command(self._process)
        super().close()
