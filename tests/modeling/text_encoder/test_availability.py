"""Availability check of text encoders on the Hugging Face hub."""

from __future__ import annotations

import http.server
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from hipie.modeling.text_encoder.bert import BertTextEncoder, check_source


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves one encoder and records requested paths."""

    requests: list[str]

    def do_HEAD(self) -> None:
        type(self).requests.append(self.path)
        known = self.path == "/owner/known/resolve/main/config.json"
        self.send_response(200 if known else 404)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def hub_requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Paths requested from a local hub."""
    Hub.requests = []
    server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield Hub.requests
    server.shutdown()
    server.server_close()


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that refuses every connection."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_local_sources_make_no_request(hub_requests: list[str], tmp_path: Path) -> None:
    for source in ("minilm", "bert-base-uncased", str(tmp_path)):
        check_source(source)
    assert hub_requests == []


def test_hub_is_requested_once(hub_requests: list[str]) -> None:
    check_source("owner/known")
    assert hub_requests == ["/owner/known/resolve/main/config.json"]
    with pytest.raises(ValueError, match='"minilmm" is not a text encoder.*status 404'):
        check_source("minilmm")
    assert len(hub_requests) == 2


@pytest.mark.parametrize("source", ["minilmm", "owner/unknown"])
def test_unreachable_hub_is_requested_once(
    unreachable: None, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    urlopen, timeouts = urllib.request.urlopen, []

    def count(request: urllib.request.Request, timeout: float) -> Any:
        timeouts.append(timeout)
        return urlopen(request, timeout=timeout)

    monkeypatch.setattr("hipie.modeling.hub.urllib.request.urlopen", count)
    with pytest.raises(ValueError, match=f'"{source}" is not a text encoder') as caught:
        BertTextEncoder.from_source(source)
    assert len(timeouts) == 1 and timeouts[0] <= 10
    assert "cannot be reached" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["", "./nowhere", "/no/such/folder", "two words", "a/b/c"])
def test_invalid_names_make_no_request(hub_requests: list[str], source: str) -> None:
    with pytest.raises(ValueError, match="is not a text encoder"):
        check_source(source)
    assert hub_requests == []


def test_offline_hub_is_not_requested(
    hub_requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="offline"):
        check_source("owner/known")
    assert hub_requests == []
