"""A small HTTP server of a folder on 127.0.0.1, with or without byte ranges, that remembers what it was asked."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock
from urllib.parse import unquote, urlsplit


@dataclass
class FileServer:
    """`ranges` lists (path, first byte, last byte) of each range request, `whole` the path of each full download.

    With `cut_after`, a full download breaks off after so many bytes. With `refuse`, every answer is that status.
    """

    folder: Path
    address: str = ""
    with_ranges: bool = True
    cut_after: int | None = None
    refuse: int | None = None
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serving(folder: Path, *, with_ranges: bool = True) -> Iterator[FileServer]:
    """Serves the folder until the block ends, during which no proxy of the environment comes in between."""
    files = FileServer(folder, with_ranges=with_ranges)

    class Handler(_Handler):
        served = files

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with mock.patch.dict(os.environ, {"no_proxy": "127.0.0.1"}):
            yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: FileServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output clean."""

    def _answer(self, with_body: bool) -> None:
        name = unquote(urlsplit(self.path).path).lstrip("/")
        file = self.served.folder / name
        if self.served.refuse is not None or not file.is_file():
            self.send_error(self.served.refuse or 404)
            return
        content = file.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or not self.served.with_ranges:
            self._send(200, content, with_body, name)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        self.served.ranges.append((name, first, last))
        self._send(206, content[first : last + 1], with_body, name, f"bytes {first}-{last}/{len(content)}")

    def _send(self, status: int, body: bytes, with_body: bool, name: str, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if not with_body:
            return
        if status == 200:
            self.served.whole.append(name)
            if self.served.cut_after is not None:
                body = body[: self.served.cut_after]
                self.close_connection = True
        with contextlib.suppress(ConnectionError):  # a client may take the headers and leave
            self.wfile.write(body)
