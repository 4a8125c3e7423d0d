"""The programs about GRSer: arms that are real, tables of what was measured, one measurement."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

grser = pytest.importorskip("grser")

from benchmarks import grser as cost  # noqa: E402
from benchmarks import grser_ablations as ablations  # noqa: E402
from hipie import model_zoo  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("arm", ablations.ARMS)
def test_every_arm_is_options_of_the_configuration(arm: str) -> None:
    plain = model_zoo.get_config(str(ROOT / ablations.CONFIGURATION))
    changed = model_zoo.get_config(str(ROOT / ablations.CONFIGURATION), ablations.ARMS[arm])
    assert (plain.dump() == changed.dump()) == (arm == "full")


def test_the_table_is_of_what_arms_left_behind(tmp_path: Path) -> None:
    options = ablations.parse(
        ["--steps", "9", "--arms", "full", "LAVT alone", "--output", str(tmp_path)]
    )
    for seed, value in ((0, 40.0), (1, 50.0)):
        place = ablations.folder("full", seed, options)
        place.mkdir()
        found = {"group": dict.fromkeys(ablations.FIGURES.values(), value)}
        (place / "results.json").write_text(json.dumps(found))
    rows = ablations.table(options).splitlines()
    assert rows[0].startswith("9 steps an arm, seeds 0, 1")
    assert rows[-2].split(" | ")[:2] == ["| full", "45.0 ± 5.0"]
    assert rows[-1].startswith("| LAVT alone | not trained yet |")


def test_an_arm_with_results_is_not_trained_again(tmp_path: Path, monkeypatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(ablations.arms, "call", lambda command, _: started.append(command))
    options = ablations.parse(["--steps", "9", "--output", str(tmp_path)])
    ablations.train("pooled", 1, options)
    (command,) = started
    assert "--resume" in command and command[command.index("SEED") + 1] == "1"
    place = ablations.folder("pooled", 1, options)
    place.mkdir()
    (place / "results.json").write_text("{}")
    ablations.train("pooled", 1, options)
    assert len(started) == 1


def test_minutes_are_steps_by_the_time_of_a_probe(tmp_path: Path) -> None:
    options = ablations.parse(["--minutes", "15", "--output", str(tmp_path)])
    place = tmp_path / "full-probe"
    place.mkdir()
    times = [{"iteration": 3, "time": 9.0}, {"iteration": 7, "time": 2.0}, {"iteration": 8}]
    (place / "metrics.json").write_text("\n".join(map(json.dumps, times)))
    assert ablations.steps_in(15, "full", options) == 450
    assert "15 minutes an arm" in ablations.table(options)


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
