"""The end of an evaluation: one table, with the protocol in words, and the same as JSON."""

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
from hipie.evaluation.metrics.averages import mean_of_known
from hipie.evaluation.results_io import write_json

PROTOCOLS = {
    "bbox": "COCO AP of boxes, IoU 0.5 to 0.95, at most 100 an image",
    "segm": "COCO AP of masks, IoU 0.5 to 0.95, at most 100 an image",
    "panoptic_seg": "panoptic quality; segments match above IoU 0.5",
    "sem_seg": "one class a pixel, pixels of all images together",
}
"""Of results that Detectron2's evaluators name; others say it themselves."""
MOST_COLUMNS = 6
SHORTER = {
    "odinw-13": frozenset(
        f"odinw_{name}_{split}" for name in ODINW_13 for split in ("val", "minival", "test")
    )
}
"""Averages over some of a collection."""
# What the average over a collection of sets is taken of.
AVERAGED = {"odinw": ("bbox", "AP"), "seginw": ("segm", "AP")}


@dataclass
class ResultsTable:
    """Collects what was found, data set by data set.

    Attributes:
        rows: dicts with `dataset`, `task`, `protocol` and `metrics`.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, dataset: str, found: Mapping[str, Mapping[str, float]], evaluator: Any) -> None:
        """Add one data set's results.

        Args:
            dataset: its name.
            found: what the evaluator returned.
            evaluator: says its `protocol`, if it is not one of Detectron2's.
        """
        for task, metrics in found.items():
            words = getattr(evaluator, "protocol", None) or PROTOCOLS.get(task, "")
            row = {"dataset": dataset, "task": task, "protocol": words, "metrics": dict(metrics)}
            self.rows.append(row)

    def averages(self, shorter: Mapping[str, Collection[str]] = SHORTER) -> list[dict]:
        """Rows for collections of sets: the mean and the median over those that were evaluated.

        Args:
            shorter: name -> data sets, for averages over some of a collection (ODinW-13).
        """
        suites: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            suite = MetadataCatalog.get(row["dataset"]).get("collection")
            if suite in AVERAGED and row["task"] == AVERAGED[suite][0]:
                suites.setdefault(suite, []).append(row)
        found = [_average(suite, suite, rows) for suite, rows in suites.items()]
        for name, members in shorter.items():
            for suite, rows in suites.items():
                chosen = [row for row in rows if row["dataset"] in members]
                if chosen and len(chosen) < len(rows):
                    found.append(_average(name, suite, chosen))
        return found

    def text(self) -> str:
        """The table: a line a result, with its first six numbers."""
        lines = []
        for row in [*self.rows, *self.averages()]:
            shown = list(row["metrics"].items())[:MOST_COLUMNS]
            numbers = "  ".join(f"{name} {_number(value)}" for name, value in shown)
            lines.append([row["dataset"], row["task"], numbers, row["protocol"]])
        return tabulate(lines, ["data set", "task", "result", "protocol"], "simple")

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write `table.json`: all rows with all their numbers; NaN is null."""
        return write_json(Path(folder) / "table.json", [*self.rows, *self.averages()])


def _average(name: str, suite: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    task, metric = AVERAGED[suite]
    values = [float(row["metrics"].get(metric, math.nan)) for row in rows]
    known = [value for value in values if not math.isnan(value)]
    return {
        "dataset": f"{name} ({len(rows)} sets)",
        "task": task,
        "protocol": f"{PROTOCOLS[task]}; mean over sets",
        "metrics": {
            f"mean {metric}": mean_of_known(values),
            f"median {metric}": statistics.median(known) if known else math.nan,
            "sets": len(rows),
        },
    }


def _number(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.2f}"
