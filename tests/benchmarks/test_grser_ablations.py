"""The arms of GRSer's ablations are real options, and start from what they are told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("grser")

from benchmarks import arms
from benchmarks import grser_ablations as ablations
from hipie import model_zoo


@pytest.fixture
def calls(monkeypatch) -> list[list[str]]:
    """Commands that would have been run."""
    found: list[list[str]] = []
    monkeypatch.setattr(arms, "call", lambda command, threads: found.append(command))
    return found


def configured(command: list[str]):
    """What a command of train_net.py trains."""
    words = [one for one in command[1:] if one != "--resume"]
    assert words[0] == "--config-file"
    return model_zoo.get_config(str(arms.ROOT / words[1]), words[2:])


def test_arms_differ_in_what_they_leave_out_alone(calls, tmp_path) -> None:
    options = ablations.parse(["--steps", "7", "--output", str(tmp_path)])
    for arm in options.arms:
        ablations.train(arm, 1, options)
    found = {arm: configured(one) for arm, one in zip(options.arms, calls, strict=True)}
    full = found["full"]
    assert all("--resume" in one for one in calls)
    assert full.SOLVER.MAX_ITER == 7 and full.SEED == 1 and full.MODEL.WEIGHTS == ""
    dumps = {arm: cfg.MODEL.GRSER.dump() for arm, cfg in found.items()}
    assert len(set(dumps.values())) == len(ablations.ARMS)
    for cfg in found.values():
        cfg.MODEL.GRSER, cfg.OUTPUT_DIR = full.MODEL.GRSER, full.OUTPUT_DIR
    assert len({cfg.dump() for cfg in found.values()}) == 1


def test_arms_with_a_start_have_folders_of_their_own(calls, tmp_path) -> None:
    plain = ablations.parse(["--output", str(tmp_path)])
    started = ablations.parse(["--output", str(tmp_path), "--start", "lavt.pth"])
    assert ablations.folder("full", 0, plain) != ablations.folder("full", 0, started)
    ablations.train("pooled", 0, started)
    assert configured(calls[0]).MODEL.WEIGHTS == "lavt.pth"
    assert str(ablations.folder("pooled", 0, started)) == configured(calls[0]).OUTPUT_DIR


def test_an_arm_with_results_is_left_alone_and_read(calls, tmp_path) -> None:
    options = ablations.parse(["--output", str(tmp_path), "--arms", "full", "LAVT alone"])
    for seed, value in ((0, 40.0), (1, 50.0)):
        place = ablations.folder("full", seed, options)
        place.mkdir()
        figures = dict.fromkeys(ablations.FIGURES.values(), value)
        (place / "results.json").write_text(json.dumps({ablations.TASK: figures}))
        ablations.train("full", seed, options)
    assert not calls
    first, *_, row, none = ablations.table(options).splitlines()
    assert first.startswith("500 steps an arm, seeds 0, 1")
    assert none.startswith("| LAVT alone | not trained yet |")
    assert row == "| full | " + " | ".join(["45.0 ± 5.0"] * 5) + " |"


def test_a_probe_is_not_judged(calls, tmp_path) -> None:
    ablations.probe(Path(tmp_path), 3, ablations.parse([]))
    cfg = configured(calls[0])
    assert cfg.DATASETS.TEST == () and cfg.SOLVER.MAX_ITER == 3


def test_an_arm_needs_a_step() -> None:
    with pytest.raises(SystemExit):
        ablations.parse(["--steps", "0"])
