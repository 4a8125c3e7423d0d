"""Simulation of a cluster against closed forms."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.cluster_simulation import Cluster, main, rates, simulate

CALM = Cluster(images=64_000, spread=0.0, machine_hours=0.0, start_seconds=0.0, driver_seconds=1e-9)


def test_the_smallest_rate_is_the_limit():
    cluster = Cluster()
    assert rates(cluster, 1)["model"] == pytest.approx(80)
    assert rates(cluster, 5)["processors"] == pytest.approx(16_000)
    assert rates(cluster, 7)["storage bandwidth"] == rates(cluster, 1)["storage bandwidth"] == 250e3
    assert rates(cluster, 1)["driver"] == pytest.approx(12_800)


@pytest.mark.parametrize("machines", [1, 5])
def test_without_failures_and_variation_the_simulation_is_the_arithmetic(machines):
    # 1,000 shards among 8 or 40 actors, which divide them evenly.
    simulated = simulate(CALM, machines)
    assert simulated["seconds"] == pytest.approx(64_000 / rates(CALM, machines)["model"], rel=1e-4)
    assert simulated["busy"] == pytest.approx(1, rel=1e-4) and simulated["repeated"] == 0


def test_shared_resources_limit_the_simulation():
    slow = replace(CALM, storage_bandwidth=100 * CALM.image_bytes)
    assert simulate(slow, 5)["seconds"] == pytest.approx(640, rel=1e-3)
    waiting = replace(CALM, driver_seconds=1.0)
    assert simulate(waiting, 5)["seconds"] == pytest.approx(1000, rel=0.02)


def test_machines_that_are_taken_away_cost_time():
    # A machine works for 20 minutes, and is away for five: shards are computed again.
    cluster = replace(CALM, machine_hours=1 / 3, start_seconds=300.0, images=640_000)
    simulated, calm = simulate(cluster, 10), simulate(replace(cluster, machine_hours=0.0), 10)
    assert simulated["repeated"] > 0
    assert 1.1 < (simulated["seconds"] - 300) / (calm["seconds"] - 300) < 1.6


def test_the_program_prints_a_row_a_size(tmp_path, capsys):
    main(["--machines", "1", "3", "--images", "64000", "--output", str(tmp_path)])
    output = capsys.readouterr().out
    assert "| 1 | model | 80 |" in output and "| 3 | model | 240 |" in output
    content = json.loads((tmp_path / "results.json").read_text())
    assert set(content["cluster_simulation"]) == {"1", "3"}
