"""Signals that end a run: exit statuses, and forwarding to processes of a group."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hipie.data.worker_signals import STOP_SIGNALS


class SignalHandlers:
    """Handlers of the signals that end a run, for a time.

    Only the main thread may install handlers; elsewhere nothing happens. A SIGHUP that is ignored,
    as under nohup, stays ignored.

    Args:
        handler: called with the signal's number and the frame.
    """

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Install the handler."""
        for number in STOP_SIGNALS:
            if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                continue
            try:
                self._previous[number] = signal.signal(number, self._handler)
            except ValueError:  # only the main thread may install handlers
                return

    def restore(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Exit with status 128 + number on SIGTERM and SIGHUP, until a training handles them itself.

    SIGINT raises KeyboardInterrupt, as Python does.
    """
    process = os.getpid()

    def leave(number: int, frame: Any) -> None:
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            sys.exit(128 + number)

    handlers = SignalHandlers(leave)
    handlers.install()
    try:
        yield
    finally:
        handlers.restore()


class ForwardSignals:
    """Context that sends signals to this process on to others, as SIGTERM or SIGHUP.

    In a terminal they get SIGINT themselves, and a second one would stop them at once.

    Args:
        pids: of the other processes.

    Attributes:
        received: the first signal; None if there was none.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self.received: int | None = None
        self._pids = pids
        self._handlers = SignalHandlers(self._forward)

    def __enter__(self) -> ForwardSignals:
        self._handlers.install()
        return self

    def __exit__(self, *_: Any) -> None:
        self._handlers.restore()

    def _forward(self, number: int, _frame: Any) -> None:
        if self.received is None:
            self.received = number
        for pid in self._pids:
            try:
                os.kill(pid, signal.SIGTERM if number == signal.SIGINT else number)
            except ProcessLookupError:
                continue
