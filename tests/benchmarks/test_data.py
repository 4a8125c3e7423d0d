"""Tests of `benchmarks/data.py`: the implementations of every section agree."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import data
from hipie.data.datasets import refcoco
from hipie.data.datasets.object_reader import ObjectReader


@pytest.mark.parametrize(
    ("name", "count", "baseline"),
    [
        ("referring", {"predictions": 20}, "decoding"),
        ("loading", {"images": 4}, "detectron2"),
        ("confusion", {"label_maps": 4}, "detectron2"),
    ],
)
def test_sections(name: str, count: dict[str, int], baseline: str, tmp_path: Path, capsys) -> None:
    assert data.main(["--only", name, "--scale", "0.002", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())[name]
    ratio = results.pop(f"{baseline}_seconds") / results.pop("seconds")
    assert results == {**count, "times_faster": pytest.approx(ratio)}
    assert capsys.readouterr().out.startswith(f"{name}: ")


def test_sections_notice_that_implementations_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "confusion_matrix", lambda prediction, truth, classes: 1)
    with pytest.raises(AssertionError, match="disagree"):
        data.confusion(0.002)


def test_times_are_the_lowest_of_alternating_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    readings, order = iter([0.0, 5.0, 5.0, 6.0, 6.0, 8.0, 8.0, 12.0]), []
    monkeypatch.setattr(data.time, "process_time", lambda: next(readings))
    variants = {name: (lambda name=name: order.append(name)) for name in "ab"}
    assert data.timed(variants, 2) == {"a": 2.0, "b": 1.0}
    assert order == ["a", "b", "a", "b"]


def test_references_are_read_whole(tmp_path: Path) -> None:
    data.write_references(tmp_path, 40)
    records = data.load_refcoco(
        tmp_path / "refs(unc).p", tmp_path / "instances.json", tmp_path, "train"
    )
    assert len({s["ref_id"] for r in records for s in r["expressions"]}) == 34
    results = data.parse(tmp_path)
    assert results["images"] == len(records)


def test_every_reference_and_object_is_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.write_references(tmp_path, 40)
    calls: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def count(*args: Any) -> Any:
            calls[name] += 1
            return function(*args)

        monkeypatch.setattr(owner, name, count)

    for owner, name in ((refcoco, "_read_ref"), (refcoco, "_add_ref"), (ObjectReader, "read")):
        counted(owner, name)
    data.load_refcoco(tmp_path / "refs(unc).p", tmp_path / "instances.json", tmp_path, "train")
    assert calls == {"_read_ref": 40, "_add_ref": 34, "read": 34}


@pytest.mark.slow
def test_memory_of_the_reader(tmp_path: Path) -> None:
    data.main(["--only", "parsing", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert 0.01 < results["parsing"]["added_gigabytes"] < 1
