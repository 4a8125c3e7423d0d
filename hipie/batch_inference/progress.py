"""Progress of a run on the standard error: a bar with the time left, or a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hipie.errors import printable

# Seconds between lines where the standard error is no terminal.
LINE_INTERVAL = 30.0


class RunProgress(Protocol):
    """What a run tells about its progress."""

    def start(self, total: int) -> None:
        """Begin, with about so many images."""

    def advance(self, name: str, computed: bool) -> None:
        """Count one image, which was segmented in this run or had been before."""

    def stop(self) -> None:
        """End."""


class ProgressBar:
    """A bar with count and time left on a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images, time left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )

    def start(self, total: int) -> None:
        """Show the bar."""
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def advance(self, name: str, computed: bool) -> None:
        """Count one image."""
        self._progress.update(
            self._task, advance=1, description=printable(name, 40).replace("[", r"\[")
        )

    def stop(self) -> None:
        """Remove the bar."""
        self._progress.stop()


class ProgressLines:
    """A line with count and time left every `interval` seconds.

    Args:
        interval: in seconds.
    """

    def __init__(self, interval: float = LINE_INTERVAL) -> None:
        self.interval = interval
        self._total = self._count = self._computed = 0
        self._begin = self._last = time.monotonic()

    def start(self, total: int) -> None:
        """Begin to count."""
        self._total = total
        self._begin = self._last = time.monotonic()

    def advance(self, name: str, computed: bool) -> None:
        """Count one image, and print a line if it is time."""
        self._count += 1
        self._computed += computed
        now = time.monotonic()
        if now - self._last >= self.interval and self._computed:
            self._last = now
            rate = self._computed / max(now - self._begin, 1e-9)
            left = max(0, self._total - self._count) / rate
            print(
                f"{self._count} of {self._total} images, {rate:.2f} images a second, "
                f"{format_duration(left)} left",
                file=sys.stderr,
                flush=True,
            )

    def stop(self) -> None:
        """End."""


def choose_progress() -> RunProgress:
    """Return a bar on a terminal, and lines otherwise."""
    return ProgressBar() if sys.stderr.isatty() else ProgressLines()


def format_duration(seconds: float) -> str:
    """Return hours, minutes and seconds.

    >>> format_duration(3725)
    '1:02:05'
    """
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}"
