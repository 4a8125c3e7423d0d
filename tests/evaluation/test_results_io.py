from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hipie.evaluation import write_results
from hipie.evaluation.results_io import ExpectedResultError, require_expected_results


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


def test_expected_results_of_detectron2s_key() -> None:
    results = {"one": {"segm": {"AP": 40.0}}, "two": {"segm": {"AP": 50.0}, "bbox": {"AP": 1.0}}}
    require_expected_results([["segm", "AP", 45, 5], ["two/segm", "AP", 50, 0]], results)
    for expected, message in (
        (["segm", "AP", 40, 1], "two/segm/AP is 50.0, .* has 40 with a tolerance of 1"),
        (["bbox", "AP50", 1, 99], "two/bbox/AP50 is nan"),
        (["sem_seg", "mIoU", 1, 99], "sem_seg/mIoU is nan"),
    ):
        with pytest.raises(ExpectedResultError, match=message):
            require_expected_results([expected], results)
