"""Evaluation results as JSON files."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hipie.atomic_file import open_replaced
from hipie.errors import HipieError, InputError

SPOOL_BYTES = 1 << 24
PERCENTAGE = re.compile(
    r"(macro-)?(AP|AR|PQ|SQ|RQ|PartPQ|[mocg]IoU|fwIoU|IoU|BoundaryIoU|mACC|pACC|ACC|Acc|N-acc|T-acc"
    r"|P@|Pr@|box-P@)([^a-zA-Z]|[smlrcf]?$)"
)
"""Start of the names of metrics that are percentages."""
TOLERANCE = 1e-6


def write_results(results: Mapping[str, Mapping[str, Any]], folder: str | os.PathLike[str]) -> Path:
    """Write results as `results.json` atomically.

    Args:
        results: {data set: {task: {metric: number}}} of a training or evaluation run; benchmarks
            write tables of their own, {name: {metric: number}}.
        folder: created if it does not exist.

    Returns:
        The file. Numbers that are not finite (NaN, infinite) are null in it.
    """
    return write_json(Path(folder) / "results.json", results)


def require_percentages(dataset: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that metrics whose names say that they are percentages are from 0 to 100, or NaN.

    Args:
        dataset: its name, for the message.
        results: {task: {metric: number}}.

    Raises:
        InputError: naming the data set, the task, the metric and its value.
    """
    for task, metrics in results.items():
        for name, value in metrics.items():
            if not PERCENTAGE.match(name) or isinstance(value, str | Mapping) or value is None:
                continue
            if not (math.isnan(value) or -TOLERANCE <= value <= 100 + TOLERANCE):
                raise InputError(
                    f"{dataset}: {task} {name} is {value}, which is no percentage; results are not "
                    "written. Its annotations contradict each other, or its evaluator is wrong"
                )


def write_json(path: Path, content: Any) -> Path:
    """Write mappings, lists, numbers and strings as JSON atomically; NaN becomes null."""
    text = json.dumps(_to_json_value(content), indent=2, allow_nan=False) + "\n"
    with open_replaced(path) as file:
        file.write(text.encode())
    return path


class ExpectedResultError(HipieError):
    """Result outside of the tolerance of `TEST.EXPECTED_RESULTS`; the message names it."""


def require_expected_results(
    expected: Sequence[Sequence[Any]], results: Mapping[str, Mapping[str, Any]]
) -> None:
    """Check results against `TEST.EXPECTED_RESULTS`.

    Args:
        expected: [task, metric, value, tolerance] each; a task holds for every data set that has
            it, "data set/task" for one.
        results: {data set: {task: {metric: number}}}.

    Raises:
        ExpectedResultError: naming the first number that differs or is missing.
    """
    for task, metric, value, tolerance in expected:
        numbers = {
            f"{dataset}/{name}/{metric}": metrics.get(metric, math.nan)
            for dataset, tasks in results.items()
            for name, metrics in tasks.items()
            if task in (name, f"{dataset}/{name}")
        }
        for name, number in (numbers or {f"{task}/{metric}": math.nan}).items():
            if not abs(number - value) <= tolerance:
                raise ExpectedResultError(
                    f"{name} is {number}, and TEST.EXPECTED_RESULTS has {value} with a tolerance "
                    f"of {tolerance}"
                )


def _to_json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_json_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_to_json_value(item) for item in value]
    if isinstance(value, int) or value is None or isinstance(value, str):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


class JSONList:
    """Lines of JSON in a temporary file, which become one list."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115

    def add(self, chunk: bytes) -> None:
        """Append bytes, which may begin and end within a line."""
        self._file.write(chunk)

    def write(self, path: str | os.PathLike[str], before: bytes = b"", after: bytes = b"") -> None:
        """Write the list, line by line, between two texts."""
        self._file.seek(0)
        with open(path, "wb") as file:
            file.write(before + b"[")
            for number, line in enumerate(self._file):
                file.write((b",\n" if number else b"") + line.rstrip(b"\n"))
            file.write(b"]" + after)
