"""Curves of losses and metrics as an image, drawn from metrics.json after every evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.utils.events import EventWriter, get_event_storage
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hipie.checkpoint.atomic_write import write_atomically
from hipie.checkpoint.error import CheckpointError
from hipie.engine.event_writers import GROUP_PREFIX
from hipie.logs import get_logger

logger = get_logger(__name__)

TOTAL_LOSS = "total_loss"
# Curves of one panel; of the metrics of a task, those with the shortest names (AP, AP50, ...).
MAX_CURVES = 6
# Losses whose largest and smallest value have at least this ratio are drawn on a log scale.
LOG_SCALE_RATIO = 20
COLUMNS = 3
PANEL_INCHES = (4.6, 3.2)
DOTS_PER_INCH = 110

Curves = Mapping[str, Mapping[int, float]]


class MetricHistory:
    """Scalars of a metrics.json by name and iteration, read incrementally.

    A run that is resumed from an earlier checkpoint, or that starts anew in the same folder,
    appends to the file; values that it replaces are forgotten.

    Args:
        path: of the file, which need not exist yet.

    Attributes:
        curves: {name: {iteration: value}}.
        size: bytes of the file that were read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.curves: dict[str, dict[int, float]] = {}
        self.size = 0

    def update(self) -> None:
        """Read the lines that were appended since the last call."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as stream:
            stream.seek(self.size)
            for line in stream:
                if not line.endswith(b"\n"):  # of a process that was killed while writing
                    break
                self.size += len(line)
                self._add(line)

    def _add(self, line: bytes) -> None:
        try:
            values = json.loads(line)
            iteration = int(values.pop("iteration"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if _last(self.curves.get(TOTAL_LOSS, {})) >= iteration and TOTAL_LOSS in values:
            for curve in self.curves.values():
                _forget(curve, iteration + 1)
        for name, value in values.items():
            curve = self.curves.setdefault(name, {})
            _forget(curve, iteration)
            if isinstance(value, int | float) and math.isfinite(value):
                curve[iteration] = float(value)


def _last(curve: dict[int, float]) -> int:
    return next(reversed(curve), -1)


def _forget(curve: dict[int, float], start: int) -> None:
    """Remove the values from an iteration on, in place."""
    while _last(curve) >= start:
        curve.popitem()


def panels(curves: Curves) -> dict[str, dict[str, Mapping[int, float]]]:
    """Sort curves into panels by title: the losses of each branch, then each task of each data set.

    Metrics of single classes (`AP-car`) are left out.

    Args:
        curves: {name: {iteration: value}}.

    Returns:
        {title: {label: {iteration: value}}}; the first panel has the total loss.
    """
    result: dict[str, dict[str, Mapping[int, float]]] = {"total loss": {}}
    metrics: dict[str, dict[str, Mapping[int, float]]] = {}
    for name in sorted(curves):
        curve = curves[name]
        if not curve:
            continue
        if name == TOTAL_LOSS:
            result["total loss"]["total"] = curve
        elif name.startswith(GROUP_PREFIX):
            branch, _, group = name.removeprefix(GROUP_PREFIX).partition("_")
            result.setdefault(f"loss of {branch}", {})[group or branch] = curve
        elif "/" in name:
            task, _, metric = name.rpartition("/")
            if "-" not in metric:
                metrics.setdefault(task, {})[metric] = curve
    for task, by_metric in metrics.items():
        shortest = sorted(by_metric, key=lambda metric: (len(metric), metric))[:MAX_CURVES]
        result[task] = {metric: by_metric[metric] for metric in shortest}
    return {title: panel for title, panel in result.items() if panel}


def draw(curves: Curves, best_metric: str = "") -> Figure | None:
    """Draw all panels of some curves.

    Args:
        curves: {name: {iteration: value}}.
        best_metric: metric of the best checkpoint, which is drawn with a thicker line.

    Returns:
        The figure; None where there is nothing to draw.
    """
    by_title = panels(curves)
    if not by_title:
        return None
    columns = min(COLUMNS, len(by_title))
    rows = math.ceil(len(by_title) / columns)
    figure = Figure((columns * PANEL_INCHES[0], rows * PANEL_INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (title, panel) in enumerate(by_title.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        _draw_panel(axes, title, panel, best_metric)
    return figure


def _draw_panel(
    axes: Axes, title: str, panel: Mapping[str, Mapping[int, float]], best_metric: str
) -> None:
    is_metric = "/" in title
    for label, curve in panel.items():
        (line,) = axes.plot(list(curve), list(curve.values()), label=label, linewidth=1.2)
        if is_metric:  # the first evaluation is a single point
            line.set_marker("o")
            line.set_markersize(3)
        if f"{title}/{label}" == best_metric:
            line.set_linewidth(2.4)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("iteration", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    values: Sequence[float] = [value for curve in panel.values() for value in curve.values()]
    if not is_metric and min(values) > 0 and max(values) > LOG_SCALE_RATIO * min(values):
        axes.set_yscale("log")
    axes.legend(fontsize=7)


class CurveWriter(EventWriter):
    """Event writer that draws `curves.png` after every evaluation and at the end of training.

    It reads metrics.json, so a resumed run draws the curves of the interrupted one, too.

    Args:
        folder: has metrics.json and gets curves.png.
        best_metric: see `draw`.
    """

    def __init__(self, folder: Path, best_metric: str = "") -> None:
        self.path = folder / "curves.png"
        self._best_metric = best_metric
        self._history = MetricHistory(folder / "metrics.json")
        self._evaluated = -1
        self._drawn_size = 0

    def write(self) -> None:
        """Draw the curves if there are results of a new evaluation."""
        evaluated = max(
            (
                iteration
                for name, (_, iteration) in get_event_storage().latest().items()
                if "/" in name and not name.startswith(GROUP_PREFIX)
            ),
            default=-1,
        )
        if evaluated > self._evaluated:
            self._evaluated = evaluated
            self._draw()

    def close(self) -> None:
        """Draw the curves if there are new values since the last time."""
        self._draw()

    def _draw(self) -> None:
        self._history.update()
        if self._history.size == self._drawn_size:
            return
        self._drawn_size = self._history.size
        figure = draw(self._history.curves, self._best_metric)
        if figure is None:
            return
        try:
            write_atomically(
                self.path, lambda name: figure.savefig(name, format="png", dpi=DOTS_PER_INCH)
            )
        except CheckpointError as error:  # curves are no reason to end a training
            logger.warning("No curves: %s", error)
