"""Long work of the page: one at a time, with progress, and it can be cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hipie.error_report import as_hipie_errors
from hipie.errors import HipieError

# Seconds between two messages.
INTERVAL = 0.5


class CancelledWorkError(Exception):
    """Raised inside of work that was cancelled, at its next step."""


class Progress:
    """What work says of itself while it runs.

    Attributes:
        text: the step.
        is_cancelled: set when the result is not needed any more.
        is_changed: set when there is something to tell at once: the end, or that it was cancelled.
    """

    def __init__(self) -> None:
        self.text = "Waiting for other work"
        self.is_cancelled = threading.Event()
        self.is_changed = threading.Event()

    def cancel(self) -> None:
        """End the work at its next step."""
        self.is_cancelled.set()
        self.is_changed.set()

    def step(self, text: str) -> None:
        """Begin a step.

        Raises:
            CancelledWorkError: if the work was cancelled.
        """
        if self.is_cancelled.is_set():
            raise CancelledWorkError
        self.text = text


@dataclass(frozen=True)
class Update:
    """A message of work, and at the end its result or error.

    Attributes:
        message: for the page.
        result: None before the end and after an error.
        is_error: whether the message is an error.
    """

    message: str
    result: Any = None
    is_error: bool = False


class Worker:
    """Runs the work of all tabs and browsers in one thread, in their order."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "hipie-app")
        self._unfinished: dict[str, list[Progress]] = {}
        self._lock = threading.Lock()

    def run(self, work: Callable[[Progress], tuple[str, Any]], owner: str = "") -> Iterator[Update]:
        """Run work, and yield updates until its end.

        When it is cancelled, or the iterator is closed, work that waits is dropped, and work that
        runs ends at its next step; the iterator ends at once.

        Args:
            work: returns a message and the result.
            owner: what `cancel` names it by.
        """
        progress = Progress()
        with self._lock:
            self._unfinished.setdefault(owner, []).append(progress)
        future = self._pool.submit(_run, work, progress)
        future.add_done_callback(lambda _: progress.is_changed.set())
        start = time.monotonic()
        try:
            while not progress.is_changed.wait(INTERVAL):
                yield Update(f"{progress.text} ({time.monotonic() - start:.0f} s)")
            is_cancelled = progress.is_cancelled.is_set() or future.cancelled()
            yield Update("Cancelled") if is_cancelled else future.result()
        finally:
            progress.is_cancelled.set()
            future.cancel()
            with self._lock:
                self._unfinished[owner].remove(progress)
                if not self._unfinished[owner]:
                    del self._unfinished[owner]

    def cancel(self, owner: str) -> bool:
        """Cancel the work of an owner, and return whether there was any."""
        with self._lock:
            unfinished = list(self._unfinished.get(owner, ()))
        for progress in unfinished:
            progress.cancel()
        return bool(unfinished)

    def close(self) -> None:
        """End the thread after the step that runs."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _run(work: Callable[[Progress], tuple[str, Any]], progress: Progress) -> Update:
    try:
        with as_hipie_errors():
            try:
                return Update(*work(progress))
            except CancelledWorkError:
                return Update("Cancelled")
    except HipieError as error:
        return Update(str(error), is_error=True)
