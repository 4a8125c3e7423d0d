"""Metrics of the service in Prometheus' text format."""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


class Histogram:
    """Numbers of observations below bounds, their sum and their number.

    Args:
        bounds: upper bounds, in increasing order.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Add an observation."""
        self._counts[bisect.bisect_left(self.bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str = "") -> list[str]:
        """Lines of the histogram in Prometheus' format."""
        totals = list(accumulate(self._counts))
        comma = "," if labels else ""
        lines = [
            f'{name}_bucket{{{labels}{comma}le="{bound}"}} {total}'
            for bound, total in zip([*self.bounds, "+Inf"], totals, strict=True)
        ]
        suffix = f"{{{labels}}}" if labels else ""
        return [*lines, f"{name}_sum{suffix} {self._sum:.6f}", f"{name}_count{suffix} {totals[-1]}"]


class Metrics:
    """Counters of requests, their durations, and sizes of batches.

    Args:
        gauges: current values by name and description.
    """

    def __init__(self, gauges: dict[tuple[str, str], Callable[[], float]]) -> None:
        self._gauges = gauges
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: dict[str, Histogram] = {}
        self._batches = Histogram(BATCH_SIZES)
        self._lock = threading.Lock()

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            path: of a route, so that the number of series is bounded.
            status: of the response.
            seconds: from the first byte of the request to the response.
        """
        with self._lock:
            self._requests[path, status] += 1
            self._seconds.setdefault(path, Histogram(SECONDS)).observe(seconds)

    def observe_batch(self, size: int) -> None:
        """Count a batch of requests."""
        with self._lock:
            self._batches.observe(size)

    def text(self) -> str:
        """Return all metrics."""
        with self._lock:
            lines = _header("hipie_requests_total", "counter", "Requests by path and status.")
            lines += [
                f'hipie_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self._requests.items())
            ]
            lines += _header("hipie_request_seconds", "histogram", "Duration of requests.")
            for path, histogram in sorted(self._seconds.items()):
                lines += histogram.lines("hipie_request_seconds", f'path="{path}"')
            lines += _header("hipie_batch_size", "histogram", "Requests that run together.")
            lines += self._batches.lines("hipie_batch_size")
        for (name, description), value in self._gauges.items():
            lines += [*_header(name, "gauge", description), f"{name} {value():g}"]
        return "\n".join(lines) + "\n"


def _header(name: str, kind: str, description: str) -> list[str]:
    return [f"# HELP {name} {description}", f"# TYPE {name} {kind}"]
