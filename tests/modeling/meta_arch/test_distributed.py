"""Several processes with shares of a batch train as one process with all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "tests/modeling/meta_arch/distributed_gradients.py"


def run_processes(
    folder: Path, world_size: int, options: list[str], labels: str = "masks"
) -> list[dict[str, Any]]:
    """What every process of `distributed_gradients.py` wrote."""
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                PROGRAM,
                *(str(rank), str(world_size), folder / "rendezvous", folder / f"{rank}.pt"),
                labels,
                *options,
            ],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    errors = [process.communicate(timeout=900)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * world_size, errors
    return [torch.load(folder / f"{rank}.pt") for rank in range(world_size)]


def assert_equal_to_one_process(
    case: str, single: dict, ranks: list[dict], tolerance: float
) -> None:
    """The mean over processes, which parallel training applies, equals one process."""
    for name, loss in single["losses"].items():
        mean = sum(of_rank["losses"][name] for of_rank in ranks) / len(ranks)
        assert float(mean) == pytest.approx(float(loss), rel=1e-5, abs=1e-5), (case, name)
    largest = max(float(g.abs().max()) for g in single["gradients"].values() if g is not None)
    assert largest > 1e-3
    for name, gradient in single["gradients"].items():
        for of_rank in ranks:
            difference = of_rank["gradients"][name]
            if gradient is not None:
                difference = difference - gradient
            error = float(difference.abs().max())
            assert error < tolerance * max(1.0, largest), (case, name, error)


@pytest.mark.parametrize(("world_size", "average"), [(2, True), (3, True), (2, False)])
def test_several_processes(tmp_path, tiny_options, world_size, average):
    """Names of losses and reached parameters depend on the task only; values are those of one."""
    options = [*tiny_options, "MODEL.HIPIE.LOSS.AVERAGE_NORMALIZERS", str(average)]
    results = run_processes(tmp_path, world_size, options)
    check_results(results, average)


@pytest.mark.slow
def test_two_processes_with_weak_labels(tmp_path, tiny_options):
    """Boxes, points, scribbles and tags.

    Without the pairwise loss, whose edges are counted in each process, as published.
    """
    options = [*tiny_options, "MODEL.HIPIE.LOSS.AVERAGE_NORMALIZERS", "True"]
    options += ["MODEL.HIPIE.LOSS.WEAK.PAIRWISE", "0.0"]
    results = run_processes(tmp_path, 2, options, "weak")
    check_results(results, average=True, tolerance=5e-5)
    cases = results[0]["single"]
    for case, terms in {
        "boxes": ("projection",),
        "points": ("point", "bbox"),
        "scribbles": ("point",),
        "tags": ("tag",),
    }.items():
        for term in terms:
            assert any(term in k and loss > 0 for k, loss in cases[case]["losses"].items()), term


def check_results(results: list[dict[str, Any]], average: bool, tolerance: float = 1e-5) -> None:
    """Assert equal names in all processes, and with `average` the values of one process."""
    first_of_task: dict[str, dict] = {}
    assert len(results[0]["single"]) >= 3
    for case, single in results[0]["single"].items():
        expected = first_of_task.setdefault(results[0]["tasks"][case], single)
        names = list(expected["losses"])
        unreached = {name for name, g in expected["gradients"].items() if g is None}
        assert list(single["losses"]) == names
        assert {name for name, g in single["gradients"].items() if g is None} == unreached
        ranks = [result["distributed"][case] for result in results]
        for of_rank in ranks:
            assert list(of_rank["losses"]) == names
            assert all(loss.isfinite() for loss in of_rank["losses"].values())
            assert all(gradient is not None for gradient in of_rank["gradients"].values())
        if average:
            assert_equal_to_one_process(case, single, ranks, tolerance)
