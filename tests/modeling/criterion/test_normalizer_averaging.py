"""Two processes with half a batch each have the gradients of one process with all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("two_processes.py")
THING_LEAVES = 4 * 7


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    """Gradients that each of the two processes wrote."""
    folder = tmp_path_factory.mktemp("shares")
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), folder / "rendezvous", folder / f"{rank}.pt"],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def equal_to_one_process(shares: list[dict], option: str) -> list[bool]:
    """Whether the mean of both, which parallel training applies, equals that of one process."""
    means = [(a + b) / 2 for a, b in zip(shares[0][option], shares[1][option], strict=True)]
    single = shares[0]["single"]
    return [torch.allclose(a, b, atol=1e-7, rtol=1e-4) for a, b in zip(single, means, strict=True)]


def test_averaged_normalizers_give_the_gradients_of_one_process(shares):
    same = equal_to_one_process(shares, "average")
    assert len(same) == 2 * THING_LEAVES and all(same)
    assert any(gradient.abs().sum() > 0 for gradient in shares[0]["single"])


def test_published_normalizers_of_things_are_those_of_each_process(shares):
    same = equal_to_one_process(shares, "published")
    assert not all(same[:THING_LEAVES])
    assert all(same[THING_LEAVES:])


def test_processes_with_unequal_denoising_exchange_equally_many_normalizers(shares):
    first, second = (share["unequal"] for share in shares)
    assert list(first) == list(second)
    assert all(value.isfinite() for value in (*first.values(), *second.values()))
    assert first["loss_ce"] > 0 and second["loss_ce"] > 0


def test_a_single_process_needs_no_process_group():
    from hipie.modeling.criterion.normalizer_averaging import average_over_processes

    assert average_over_processes(torch.tensor([3.0])).item() == pytest.approx(3.0)
