"""The benchmark of the operator compares it with the implementations that are installed."""

from __future__ import annotations

import re

import pytest

from benchmarks import ms_deform_attn as benchmark


def slow_and_wrong():
    """A form that computes twice, adds a thousandth and holds on to memory."""

    def compute(*inputs):
        benchmark.grid_sample_form(*inputs)
        return benchmark.grid_sample_form(*inputs) * 1.001

    return compute


def missing():
    raise ImportError("No module named 'shelf'")


def test_peers_are_compared_and_missing_ones_are_named(monkeypatch, capsys):
    forms = {"wrong": slow_and_wrong, "shelf": missing, "grid": lambda: benchmark.grid_sample_form}
    monkeypatch.setattr(benchmark, "PEERS", forms)
    options = ["--peers", "--shapes", "toy", "--threads", "1", "--repeats", "5", "--clock", "cpu"]
    monkeypatch.setattr("sys.argv", ["ms_deform_attn.py", *options])
    benchmark.main()
    printed = capsys.readouterr().out
    assert "shelf is not measured: No module named 'shelf'" in printed
    rows = [
        re.split(r" *\| *", line.strip("| "))
        for line in printed.splitlines()
        if line.startswith("| toy")
    ]
    table = {row[2]: [float(cell or "nan") for cell in row[3:]] for row in rows}
    assert list(table) == ["hipie", "wrong", "grid"]
    assert table["hipie"][2:4] == [1, 1]
    assert table["wrong"][0] > 1.3 * table["grid"][0]
    assert table["grid"][2] == pytest.approx(table["grid"][0] / table["hipie"][0], rel=0.3)
    assert table["grid"][6] < 1e-5
    assert 5e-4 < table["wrong"][6] < 2e-3
