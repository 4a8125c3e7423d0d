"""What an evaluation found, as a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_results(results: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Write results as `results.json`, whole or not at all.

    Args:
        results: Detectron2's results, {task: {metric: number}}.
        folder: made if it is not there.

    Returns:
        the file. Numbers that do not exist (NaN, infinite) are null in it.
    """
    return write_json(Path(folder) / "results.json", results)


def write_json(path: Path, content: Any) -> Path:
    """Write mappings, lists, numbers and texts as JSON, whole or not at all; NaN becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".json.part")
    draft.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")
    os.replace(draft, path)
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, int) or value is None or isinstance(value, str):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
