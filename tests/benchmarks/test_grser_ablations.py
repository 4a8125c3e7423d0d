"""Ablations of GRSer: configuration overrides, initial weights and results table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("grser")

from benchmarks import arms
from benchmarks import grser_ablations as ablations
from grser import build
from hipie import model_zoo


@pytest.fixture
def calls(monkeypatch) -> list[list[str]]:
    """Record commands instead of running them."""
    commands: list[list[str]] = []
    monkeypatch.setattr(arms, "call", lambda command, threads: commands.append(command))
    return commands


def configured(command: list[str]):
    """Configuration of a command of train_net.py."""
    arguments = [argument for argument in command[1:] if argument != "--resume"]
    assert arguments[0] == "--config-file"
    return model_zoo.get_config(str(arms.ROOT / arguments[1]), arguments[2:])


def test_arms_differ_only_in_the_keys_of_grser(calls, tmp_path) -> None:
    options = ablations.parse(["--steps", "7", "--output", str(tmp_path)])
    for arm in options.arms:
        ablations.train(arm, 1, options)
    configs = {arm: configured(call) for arm, call in zip(options.arms, calls, strict=True)}
    full = configs["full"]
    assert all("--resume" in call for call in calls)
    assert full.SOLVER.MAX_ITER == 7 and full.SEED == 1
    assert full.MODEL.WEIGHTS == "hipie://grser-nano-picturebook"
    assert full.MODEL.WEIGHTS_EXCLUDE == ablations.GROUP_MODULES
    dumps = {arm: cfg.MODEL.GRSER.dump() for arm, cfg in configs.items()}
    assert len(set(dumps.values())) == len(ablations.ARMS)
    assert [arm for arm in configs if not configs[arm].MODEL.GRSER.TEST.HEATMAPS] == ["LAVT alone"]
    for cfg in configs.values():
        build._check_keys(cfg.MODEL.GRSER)
        cfg.MODEL.GRSER, cfg.OUTPUT_DIR = full.MODEL.GRSER, full.OUTPUT_DIR
    assert len({cfg.dump() for cfg in configs.values()}) == 1


def test_arms_with_initial_weights_have_separate_folders(calls, tmp_path) -> None:
    plain = ablations.parse(["--output", str(tmp_path), "--start", ""])
    started = ablations.parse(["--output", str(tmp_path), "--start", "lavt.pth"])
    assert ablations.folder("full", 0, plain) != ablations.folder("full", 0, started)
    ablations.train("pooled", 0, started)
    assert configured(calls[0]).MODEL.WEIGHTS == "lavt.pth"
    assert configured(calls[0]).MODEL.WEIGHTS_EXCLUDE == ()
    packaged = ablations.parse(["--output", str(tmp_path)])
    assert ablations.folder("full", 0, packaged) not in (
        ablations.folder("full", 0, started),
        ablations.folder("full", 0, plain),
    )
    assert str(ablations.folder("pooled", 0, started)) == configured(calls[0]).OUTPUT_DIR


def test_arm_with_results_is_read_and_not_trained(calls, tmp_path) -> None:
    options = ablations.parse(["--output", str(tmp_path), "--arms", "full", "LAVT alone"])
    for seed, value in ((0, 40.0), (1, 50.0)):
        folder = ablations.folder("full", seed, options)
        folder.mkdir()
        metrics = dict.fromkeys(ablations.METRICS.values(), value)
        results = {ablations.DATA: {ablations.TASK: metrics}}
        (folder / "results.json").write_text(json.dumps(results))
        ablations.train("full", seed, options)
    assert not calls
    first, *_, row, missing = ablations.table(options).splitlines()
    assert first.startswith("500 steps an arm, seeds 0, 1")
    assert missing.startswith("| LAVT alone | not trained yet |")
    assert row == "| full | " + " | ".join(["45.0 ± 5.0"] * len(ablations.METRICS)) + " |"


def test_probe_is_not_evaluated(calls, tmp_path) -> None:
    ablations.probe(Path(tmp_path), 3, ablations.parse([]))
    cfg = configured(calls[0])
    assert cfg.DATASETS.TEST == () and cfg.SOLVER.MAX_ITER == 3


def test_zero_steps_are_rejected() -> None:
    with pytest.raises(SystemExit):
        ablations.parse(["--steps", "0"])


def test_every_arm_loads_the_packaged_lavt() -> None:
    """The group modules stay random; the rest is of the package."""
    from detectron2.modeling import build_model

    from hipie.checkpoint import Checkpointer

    for arm in ("LAVT alone", "full"):
        options = list(ablations.ARMS[arm])
        cfg = model_zoo.get_config(str(arms.ROOT / ablations.CONFIGURATION), options)
        checkpointer = Checkpointer(build_model(cfg))
        checkpointer.exclude = ablations.GROUP_MODULES
        checkpointer.load(str(model_zoo.model_weights(ablations.PACKAGED)))
        assert all(name.startswith(ablations.GROUP_MODULES) for name in checkpointer.report.missing)
        assert bool(checkpointer.report.missing) == (arm == "full")
