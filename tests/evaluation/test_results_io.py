from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hipie.evaluation import write_results


def test_results_are_valid_json(tmp_path: Path) -> None:
    tasks = {"panoptic_seg": {"PQ": np.float32(40.5), "n": 3}, "segm": {"AP": float("nan")}}
    path = write_results({"first": tasks}, tmp_path / "new")
    assert path == tmp_path / "new" / "results.json"
    assert json.loads(path.read_text()) == {
        "first": {"panoptic_seg": {"PQ": 40.5, "n": 3}, "segm": {"AP": None}}
    }
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = write_results({"a": {"b": 1.0}}, tmp_path)
    try:
        write_results({"a": {"b": object()}}, tmp_path)
    except TypeError:
        assert json.loads(path.read_text()) == {"a": {"b": 1.0}}
    else:
        raise AssertionError("an object went into JSON")
