"""The program measures the ways of work on the same images, and writes what it prints."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import throughput


def test_program_compares_the_run_with_the_loop(tiny_program, capsys, monkeypatch) -> None:
    monkeypatch.setattr(throughput, "SIZE", (96, 64))
    options = ["--images", "2", "--repeats", "1", "--threads", "1"]
    results = throughput.main([*options, *tiny_program])["throughput"]
    assert {*results["1"]["images_a_second"]} == {"loop", "run, 1 process"}
    assert all(seconds > 0 for seconds in results["1"]["cpu_seconds_an_image"].values())
    assert abs(sum(results["1"]["shares"].values()) - 1) < 1e-9
    folder = Path(tiny_program[tiny_program.index("--output") + 1])
    assert json.loads((folder / "results.json").read_text()) == {"throughput": results}
    assert "| 1 | run, 1 process |" in capsys.readouterr().out


def test_the_loop_writes_what_the_run_writes(tmp_path) -> None:
    from tests.batch_inference.stub import segment

    files = throughput.write_images(tmp_path, 2)
    assert {*throughput.run_loop(files, tmp_path / "loop", segment)} == {*throughput.SHARES}
    throughput.run_folder(files, tmp_path / "run", segment)
    for file in files:
        loop = json.loads((tmp_path / f"loop/{file.stem}.json").read_text())
        through_run = json.loads((tmp_path / f"run/{file.stem}.json").read_text())
        assert loop["segments"] == through_run["segments"]
