"""Ablations of HIPIE: configuration overrides, commands and results table."""

from __future__ import annotations

import argparse
import json
import subprocess

import pytest

from benchmarks import arms
from benchmarks import hipie_ablations as ablations


@pytest.mark.parametrize("arm", ablations.ARMS)
def test_every_arm_but_the_full_model_changes_the_configuration(arm: str, tiny_cfg) -> None:
    before = tiny_cfg.clone()
    tiny_cfg.merge_from_list(list(ablations.ARMS[arm]))
    assert (tiny_cfg.dump() == before.dump()) == (arm == "full")


def test_metrics_are_read_from_evaluation_results(tmp_path) -> None:
    options = argparse.Namespace(steps=9, output=str(tmp_path))
    assert ablations.read("full", 0, options) is None
    folder = ablations.folder("full", 0, options)
    folder.mkdir()
    results: dict[str, dict[str, dict[str, float]]] = {}
    for number, (dataset, task, metric) in enumerate(ablations.METRICS.values()):
        results.setdefault(dataset, {}).setdefault(task, {})[metric] = number
    (folder / "results.json").write_text(json.dumps(results))
    metrics = ablations.read("full", 0, options)
    assert metrics == {name: number for number, name in enumerate(ablations.METRICS)}


def test_table_has_means_and_half_the_range() -> None:
    measured = {("full", 0): 40.0, ("full", 1): 50.0, ("no_fusion", 1): 30.0}
    options = argparse.Namespace(arms=["full", "no_fusion", "other"], seeds=[0, 1])
    title, _, head, _, full, partial, missing = arms.table(
        options,
        "9 steps",
        ["PQ", "N-acc"],
        lambda *key: {"PQ": measured[key], "AP": 0.0} if key in measured else None,
    ).splitlines()
    assert title == "9 steps an arm, seeds 0, 1, percent" and head == "| | PQ | N-acc |"
    assert full == "| full | 45.0 ± 5.0 |  |"
    assert partial == "| no fusion (1 of 2 seeds) | 30.0 |  |"
    assert missing.startswith("| other | not trained yet |")


def test_failing_subprocess_raises() -> None:
    arms.call(["-c", "import os; assert os.environ['OMP_NUM_THREADS'] == '3'"], 3)
    with pytest.raises(subprocess.CalledProcessError):
        arms.call(["-c", "raise SystemExit(2)"], 1)


def test_steps_for_a_duration_are_measured_once(tmp_path) -> None:
    def probe(output, steps: int) -> None:
        assert steps == arms.PROBE_STEPS
        output.mkdir()
        (output / "metrics.json").write_text('{"time": 1.5, "iteration": 9}\n{"iteration": 15}\n')

    assert arms.steps_in(15, tmp_path, probe) == 600
    assert arms.steps_in(15, tmp_path, lambda *_: pytest.fail("it was measured again")) == 600
