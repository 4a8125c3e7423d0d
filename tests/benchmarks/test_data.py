"""Tests of `benchmarks/data.py`: the implementations of every section agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import data


@pytest.mark.parametrize("name", ["referring", "loading", "confusion"])
def test_sections(name: str, tmp_path: Path, capsys) -> None:
    assert data.main(["--only", name, "--scale", "0.002", "--output", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())[name]
    assert results["times_faster"] > 0 and results["seconds"] > 0
    assert capsys.readouterr().out.startswith(f"{name}: ")


def test_references_are_read_whole(tmp_path: Path) -> None:
    data.write_references(tmp_path, 40)
    records = data.load_refcoco(
        tmp_path / "refs(unc).p", tmp_path / "instances.json", tmp_path, "train"
    )
    assert len({s["ref_id"] for r in records for s in r["expressions"]}) == 34
    results = data.parse(tmp_path)
    assert results["images"] == len(records) and results["added_bytes"] >= 0


@pytest.mark.slow
def test_as_fast_as_it_has_to_be(tmp_path: Path) -> None:
    data.main(["--only", "referring", "parsing", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["referring"]["times_faster"] > 5
    assert results["parsing"]["seconds"] < 5 and results["parsing"]["added_gigabytes"] < 1
