"""Benchmark of GRSer by group size."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

grser = pytest.importorskip("grser")

from benchmarks import grser as benchmark  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("heatmaps", ["ranked", "pooled"])
def test_measurement_of_a_group_size(heatmaps: str, tiny_text, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path[1:]])
    options = argparse.Namespace(
        config_file=benchmark.CONFIGURATION,
        heatmaps=[heatmaps],
        sizes=[3],
        side=64,
        repeats=1,
        opts=["MODEL.GRSER.TEXT.SOURCE", str(tiny_text), "MODEL.TIMM.WEIGHTS", ""],
    )
    result = benchmark.measure(options)
    assert result["expressions"] == 2 and result["positions"] == 16
    assert 0 < result["pairs"] < result["model"]
    row = benchmark.table({(heatmaps, 3): result}).splitlines()[-1].split(" | ")
    assert row[:2] == [f"| {heatmaps}", "3"] and row[-1] == "2 |"
