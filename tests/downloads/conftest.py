"""A file server on the loopback device that breaks connections, redirects and lies on request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import hipie.downloads.transfer as transfer


@dataclass
class Answer:
    """What the server sends for one path.

    `breaks` are numbers of bytes after which the first connections are closed; `tags` are the
    ETags of the requests in turn, the last of which stays.
    """

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    tags: list[str] = field(default_factory=lambda: ['"1"'])
    has_length: bool = True
    has_ranges: bool = True
    before: Callable[[], None] = lambda: None


class FileServer:
    """Answers by path; `requests` has path and Range header of every request."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, str]] = []
        files = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                files.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.http.server_port}"

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    def serve(self, path: str, content: bytes = b"", **options: object) -> str:
        """Offer a file, and return its address."""
        self.answers[path] = Answer(content, **options)  # type: ignore[arg-type]
        return self.url(path)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range", "")
        self.requests.append((request.path, wanted))
        answer = self.answers.get(request.path, Answer(status=404))
        answer.before()
        content, status, headers = answer.content, answer.status, dict(answer.headers)
        tag = answer.tags.pop(0) if len(answer.tags) > 1 else answer.tags[0]
        if tag:
            headers["ETag"] = tag
        if wanted and status == 200 and answer.has_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                status, content = 416, b""
            else:
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                content = content[start:]
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        if answer.has_length:
            request.send_header("Content-Length", str(len(content)))
        request.send_header("Connection", "close")
        request.end_headers()
        if answer.breaks and status in (200, 206):
            content = content[: answer.breaks.pop(0)]
        request.wfile.write(content)
        request.close_connection = True


@pytest.fixture
def server() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of downloads; and short pauses, and no permission for http."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FVCORE_CACHE", str(folder))
    monkeypatch.delenv("HIPIE_ALLOW_HTTP", raising=False)
    monkeypatch.setattr(transfer, "PAUSE_SECONDS", 0.0)
    return folder
