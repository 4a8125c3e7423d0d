"""Start and end of the service."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from hipie.listening import BACKLOG
from hipie.predictor import Segmenter
from hipie.serve.model_loading import LoadedModel
from hipie.serve.protocol import protocol
from hipie.serve.service import create_app
from hipie.serve.settings import Limits

# Seconds between two looks at the server by the main thread, which receives signals.
POLL = 0.1
INTERRUPTED = 130


def run(
    listener: socket.socket,
    name: str,
    load: Callable[[], Segmenter],
    limits: Limits,
    token: str | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; requests that run or wait are finished then.

    Call it in the main thread. A second signal ends the process at once.

    Args:
        listener: see `hipie.listening.listen`.
        name: of the model.
        load: builds the model; called in a thread.
        limits: of requests.
        token: see `create_app`.

    Returns:
        The exit status: 0 after SIGTERM, 130 after SIGINT.

    Raises:
        HipieError: if the model cannot be loaded.
    """
    failed = threading.Event()
    model = LoadedModel(name, load, failed.set)
    config = uvicorn.Config(
        create_app(model, limits, token),
        http=protocol(limits.upload_timeout),
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=int(limits.timeout + limits.upload_timeout) + 1,
    )
    server = uvicorn.Server(config)
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        server.should_exit = True

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        model.start()
        while thread.is_alive():
            thread.join(POLL)
            if failed.is_set():
                server.should_exit = True
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        listener.close()
    if model.error is not None:
        raise model.error
    status = INTERRUPTED if received and received[0] == signal.SIGINT else 0
    if model.is_loading:
        # A thread that imports modules must not see the end of the interpreter.
        sys.stdout.flush()
        os._exit(status)
    return status
