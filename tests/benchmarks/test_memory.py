"""Tests of `benchmarks/memory.py`: both implementations give the same, and sharing saves memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import memory


@pytest.mark.slow
def test_shared_lists_and_counts_take_less(tmp_path: Path, capsys) -> None:
    arguments = ["--records", "50000", "--ranks", "2", "--output", str(tmp_path)]
    assert memory.main(arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"list, 2", "counts, 2", "instances, 2"}
    for figures in results.values():
        assert figures["equal"] and figures["ours"]["held"] < figures["baseline"]["held"]
    assert "list, 2 processes: " in capsys.readouterr().out


def test_growth_of_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.dist, "barrier", lambda: None)
    measured = memory.Memory()
    kept = bytearray(50 * memory.MIB)
    kept[::4096] = b"1" * len(kept[::4096])
    held, peak = measured.growth()
    assert 45 < held / memory.MIB < 60 and 45 < peak / memory.MIB < 60
