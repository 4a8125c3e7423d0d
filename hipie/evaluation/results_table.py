"""Table of the results of all data sets, with their evaluation protocols, as text and JSON."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from tabulate import tabulate

from hipie.data.datasets.odinw_seginw import ODINW_13
from hipie.evaluation.metrics.averages import nanmean
from hipie.evaluation.results_io import require_percentages, write_json

PROTOCOLS = {
    "bbox": "COCO AP of boxes, IoU 0.5 to 0.95, at most 100 an image",
    "segm": "COCO AP of masks, IoU 0.5 to 0.95, at most 100 an image",
    "panoptic_seg": "panoptic quality; segments match above IoU 0.5",
    "sem_seg": "one class a pixel, pixels of all images together",
}
"""Protocols of the results of Detectron2's evaluators; others have a `protocol` attribute."""
MAX_COLUMNS = 6
SUBSETS = {
    "odinw-13": frozenset(
        f"odinw_{name}_{split}" for name in ODINW_13 for split in ("val", "minival", "test")
    )
}
"""Subsets of collections that have an average of their own."""
COLLECTION_METRICS = {"odinw": ("bbox", "AP"), "seginw": ("segm", "AP")}
"""Task and metric that are averaged over each collection of data sets."""


@dataclass
class ResultsTable:
    """Results of all data sets.

    Attributes:
        rows: dicts with `dataset`, `task`, `protocol` and `metrics`.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, dataset: str, results: Mapping[str, Mapping[str, float]], evaluator: Any) -> None:
        """Add the results of a data set.

        Args:
            dataset: its name.
            results: {task: {metric: number}}, as returned by the evaluator.
            evaluator: has a `protocol` unless it is one of Detectron2's.

        Raises:
            InputError: see `require_percentages`.
        """
        require_percentages(dataset, results)
        for task, metrics in results.items():
            protocol = getattr(evaluator, "protocol", None) or PROTOCOLS.get(task, "")
            row = {"dataset": dataset, "task": task, "protocol": protocol, "metrics": dict(metrics)}
            self.rows.append(row)

    def averages(self, subsets: Mapping[str, Collection[str]] = SUBSETS) -> list[dict[str, Any]]:
        """Compute rows with mean and median over the evaluated data sets of each collection.

        Args:
            subsets: data sets by the name of a subset, such as ODinW-13.
        """
        collections: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            collection = MetadataCatalog.get(row["dataset"]).get("collection")
            if (
                collection in COLLECTION_METRICS
                and row["task"] == COLLECTION_METRICS[collection][0]
            ):
                collections.setdefault(collection, []).append(row)
        averages = [_average(name, name, rows) for name, rows in collections.items()]
        for subset, members in subsets.items():
            for collection, rows in collections.items():
                selected = [row for row in rows if row["dataset"] in members]
                if selected and len(selected) < len(rows):
                    averages.append(_average(subset, collection, selected))
        return averages

    def text(self) -> str:
        """Return the table as text: one line a result, with its first six numbers."""
        lines = []
        for row in [*self.rows, *self.averages()]:
            columns = list(row["metrics"].items())[:MAX_COLUMNS]
            numbers = "  ".join(f"{name} {_format_number(value)}" for name, value in columns)
            lines.append([row["dataset"], row["task"], numbers, row["protocol"]])
        return tabulate(lines, ["data set", "task", "result", "protocol"], "simple")

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write `table.json`: all rows with all their numbers; NaN is null."""
        return write_json(Path(folder) / "table.json", [*self.rows, *self.averages()])


def _average(name: str, collection: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    task, metric = COLLECTION_METRICS[collection]
    values = [float(row["metrics"].get(metric, math.nan)) for row in rows]
    valid_values = [value for value in values if not math.isnan(value)]
    return {
        "dataset": f"{name} ({len(rows)} sets)",
        "task": task,
        "protocol": f"{PROTOCOLS[task]}; mean over sets",
        "metrics": {
            f"mean {metric}": nanmean(values),
            f"median {metric}": statistics.median(valid_values) if valid_values else math.nan,
            "sets": len(rows),
        },
    }


def _format_number(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.2f}"
