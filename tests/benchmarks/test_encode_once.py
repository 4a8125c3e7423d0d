"""The program compares calls with the same number of backbone runs as it prints."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import encode_once


def test_program_counts_one_backbone_run_an_image(tiny_program, tmp_path, capsys) -> None:
    results = encode_once.main(["--repeats", "1", "--cpu-time", *tiny_program])["encode_once"]
    runs = {name: entry["backbone_runs"] for name, entry in results.items()}
    assert runs.pop("ten refer calls") == 10
    assert set(runs.values()) == {1}
    folder = Path(tiny_program[tiny_program.index("--output") + 1])
    assert json.loads((folder / "results.json").read_text()) == {"encode_once": results}
    output = capsys.readouterr().out
    assert "CPU ms" in output and "| set_image, ten refer calls | 1 |" in output


def test_median_times_are_of_all_turns() -> None:
    readings = iter([0.0, 1.0, 0.0, 3.0, 0.0, 2.0])
    times = encode_once.median_times({"call": lambda: None}, 3, lambda: next(readings))
    assert times == {"call": 2000}
