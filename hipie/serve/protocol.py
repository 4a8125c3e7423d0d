"""HTTP/1.1 of the service: uvicorn's, with a time-out of request heads, and refusals in JSON."""

from __future__ import annotations

import asyncio
import json
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REASONS = {400: b"Bad Request", 408: b"Request Timeout"}


class ServiceProtocol(H11Protocol):
    """A connection of a client.

    uvicorn waits without end for the head of a request: the connection of a client that sends it
    byte by byte, or nothing, would stay open.

    Attributes:
        head_timeout: seconds in which the head of a request has to arrive, from the connection or
            its first byte.
    """

    head_timeout: ClassVar[float] = 30.0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read what has arrived."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wait."""
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, "the request is not valid HTTP/1.1")

    def _watch(self) -> None:
        """Run the timer while the head of a request is missing."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout, self._end)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end(self) -> None:
        self._head_timer = None
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(408, f"the request did not begin within {self.head_timeout:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Send a refusal, and close the connection."""
        body = json.dumps({"error": message}, separators=(",", ":")).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        response = h11.Response(status_code=status, headers=headers, reason=REASONS[status])
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def protocol(head_timeout: float) -> type[ServiceProtocol]:
    """Return the protocol with a time-out in seconds."""
    return type("Protocol", (ServiceProtocol,), {"head_timeout": head_timeout})
