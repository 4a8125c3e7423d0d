"""Stand-in of the Hugging Face hub's API on this machine: repositories of files in memory."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server has and does.

    Attributes:
        files: content by "owner/name/path".
        status: HTTP status of every response instead, with `error_code` as X-Error-Code.
        break_after: bytes after which the next connections of a download break, one entry each.
        sent: content that is sent for a file instead of the one of its metadata.
        requests: (method, path, Range) of all requests.
        gate: released before the content of a file is sent.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    status: int = 0
    error_code: str = ""
    break_after: list[int] = field(default_factory=list)
    sent: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    gate: threading.Event | None = None
    url: str = ""

    @property
    def downloads(self) -> list[str]:
        """Ranges of the requests for content."""
        return [r for method, path, r in self.requests if method == "GET" and "/resolve/" in path]

    def info(self, repository: str) -> dict[str, object] | None:
        """Answer of `/api/models/OWNER/NAME`."""
        names = [name for name in self.files if name.startswith(f"{repository}/")]
        if not names:
            return None
        siblings = []
        for name in names:
            content = self.files[name]
            entry: dict[str, object] = {"rfilename": name.removeprefix(f"{repository}/")}
            entry |= {"size": len(content), "blobId": "0" * 40}
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {"id": repository, "modelId": repository, "sha": REVISION, "siblings": siblings}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _respond(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if self.hub.status:
            self._send(self.hub.status, b"", {"X-Error-Code": self.hub.error_code})
        elif path.startswith("/api/models/"):
            self._send_info(path.removeprefix("/api/models/").partition("/revision/")[0])
        else:
            repository, _, rest = path.lstrip("/").partition("/resolve/")
            self._send_file(f"{repository}/{rest.partition('/')[2]}")

    def _send_info(self, repository: str) -> None:
        info = self.hub.info(repository)
        if info is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _send_file(self, name: str) -> None:
        if name not in self.hub.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = self.hub.files[name]
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"', "X-Repo-Commit": REVISION}
        headers |= {"X-Linked-Size": str(len(content)), "Accept-Ranges": "bytes"}
        content = self.hub.sent.get(name, content)
        start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and self.hub.gate is not None:
            self.hub.gate.wait(60)
        breaks = self.command == "GET" and bool(self.hub.break_after)
        limit = self.hub.break_after.pop(0) if breaks else None
        self._send(206 if start else 200, content[start:], headers, limit)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], limit: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:limit])
        if limit is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)


@contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """Serve on a free port of this machine, and yield the address."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield hub.url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
