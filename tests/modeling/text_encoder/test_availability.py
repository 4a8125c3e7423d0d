"""A text encoder that is nowhere is refused at once, in one sentence."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from hipie.modeling.text_encoder.availability import require_source
from hipie.modeling.text_encoder.bert import TextEncoder


class Hub(http.server.BaseHTTPRequestHandler):
    """Knows one encoder."""

    asked: list[str]

    def do_HEAD(self) -> None:
        type(self).asked.append(self.path)
        known = self.path == "/owner/known/resolve/main/config.json"
        self.send_response(200 if known else 404)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on this machine, and the paths that it was asked for."""
    Hub.asked = []
    server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield Hub.asked
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


def test_what_is_here_is_not_asked_for(asked: list[str], tmp_path: Path) -> None:
    for source in ("minilm", "bert-base-uncased", str(tmp_path)):
        require_source(source)
    assert asked == []


def test_the_hub_is_asked_once(asked: list[str]) -> None:
    require_source("owner/known")
    assert asked == ["/owner/known/resolve/main/config.json"]
    with pytest.raises(ValueError, match='"minilmm" is no text encoder.*answers 404'):
        require_source("minilmm")
    assert len(asked) == 2


@pytest.mark.parametrize("source", ["minilmm", "owner/unknown"])
def test_without_a_network_the_answer_is_quick(unreachable: None, source: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=f'"{source}" is no text encoder') as caught:
        TextEncoder.from_source(source)
    assert time.monotonic() - start < 5
    assert "cannot be asked" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["", "./nowhere", "/no/such/folder", "two words", "a/b/c"])
def test_what_cannot_be_a_name_is_not_asked_for(asked: list[str], source: str) -> None:
    with pytest.raises(ValueError, match="is no text encoder"):
        require_source(source)
    assert asked == []


def test_offline_means_offline(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="offline"):
        require_source("owner/known")
    assert asked == []
