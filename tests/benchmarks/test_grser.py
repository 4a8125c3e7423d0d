"""The program that measures what a group costs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

grser = pytest.importorskip("grser")

from benchmarks import grser as cost  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("heatmaps", ["ranked", "pooled"])
def test_one_group_is_measured(heatmaps: str, tiny_text, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path[1:]])
    options = argparse.Namespace(
        config_file=cost.CONFIGURATION,
        heatmaps=[heatmaps],
        sizes=[3],
        side=64,
        repeats=1,
        opts=["MODEL.GRSER.TEXT.SOURCE", str(tiny_text), "MODEL.TIMM.WEIGHTS", ""],
    )
    found = cost.measure(options)
    assert found["sentences"] == 2 and found["places"] == 16
    assert 0 < found["pairs"] < found["whole"]
    row = cost.table({(heatmaps, 3): found}).splitlines()[-1].split(" | ")
    assert row[:2] == [f"| {heatmaps}", "3"] and row[-1] == "2 |"
