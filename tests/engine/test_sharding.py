"""Sharded training in two processes equals `DistributedDataParallel`, resumes exactly, exports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hipie.checkpoint import read_state
from hipie.cli.checkpoint import main as checkpoint_command
from hipie.engine.sharding import ShardingError, allocate_optimizer_state, shard_model

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/engine/sharded_training.py"


def run_processes(folder: Path, cases: str) -> list[dict]:
    """What both processes of `sharded_training.py` wrote."""
    processes = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(rank), folder / "rendezvous", folder, cases],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=400)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def core(tmp_path_factory) -> tuple[Path, list[dict]]:
    """Folder and results of the runs of the toy model that everybody needs."""
    folder = tmp_path_factory.mktemp("sharded")
    return folder, run_processes(folder, "core")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> tuple[Path, list[dict]]:
    """Folder and results of the runs of the toy model with every option."""
    folder = tmp_path_factory.mktemp("options")
    return folder, run_processes(folder, "options")


def largest_difference(first: dict, second: dict) -> float:
    """Of two dicts of tensors with equal names."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def assert_equal_runs(first: dict, second: dict, tolerance: float) -> None:
    """Equal weights, averages and moments."""
    assert largest_difference(first["weights"], second["weights"]) <= tolerance
    assert bool(first["averages"]) == bool(second["averages"])
    if first["averages"]:
        assert largest_difference(first["averages"], second["averages"]) <= tolerance
    assert first["moments"].keys() == second["moments"].keys()
    for name, moments in first["moments"].items():
        assert largest_difference(moments, second["moments"][name]) <= max(tolerance, 1e-6)


def test_sharded_training_equals_data_parallel(core) -> None:
    """Six steps, whose gradients are clipped, with heads in turns."""
    for result in core[1]:
        assert_equal_runs(result["runs"]["fsdp"], result["runs"]["ddp"], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sharded", "replicated", "tolerance"),
    [
        ("one group", "ddp", 1e-6),
        ("recomputed", "ddp", 1e-6),
        ("recomputed ddp", "ddp", 0.0),
        ("bfloat16 fsdp", "bfloat16 ddp", 1e-5),
        ("float16 fsdp", "float16 ddp", 1e-5),
        ("accumulated fsdp", "accumulated ddp", 1e-6),
        ("averaged fsdp", "averaged ddp", 1e-6),
    ],
)
def test_options_with_sharding_equal_data_parallel(options, sharded, replicated, tolerance) -> None:
    for result in options[1]:
        runs = result["runs"]
        assert bool(runs[sharded]["averages"]) == ("averaged" in sharded)
        assert_equal_runs(runs[sharded], runs[replicated], tolerance)


def test_each_process_stores_its_share(core) -> None:
    sharded = [result["runs"]["fsdp"]["bytes"] for result in core[1]]
    whole = core[1][0]["runs"]["ddp"]["bytes"]
    # A number of no dimension is in both processes.
    assert sum(sharded) == whole + 4
    assert max(sharded) <= 0.65 * whole


def test_resumed_training_is_equal_to_the_bit(core) -> None:
    for result in core[1]:
        runs = result["runs"]
        assert runs["stopped"]["status"] == 143
        assert runs["resumed"]["start"] == 3
        assert largest_difference(runs["resumed"]["weights"], runs["fsdp"]["weights"]) == 0
        assert runs["resumed"]["rates"] == runs["fsdp"]["rates"]
        for name, moments in runs["resumed"]["moments"].items():
            assert largest_difference(moments, runs["fsdp"]["moments"][name]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("run", ["resumed by ddp", "resumed from ddp"])
def test_runs_with_and_without_sharding_continue_each_other(options, run) -> None:
    for result in options[1]:
        resumed, whole = result["runs"][run], result["runs"]["ddp"]
        assert resumed["start"] == 3
        assert largest_difference(resumed["weights"], whole["weights"]) < 1e-6
        for name, moments in resumed["moments"].items():
            assert largest_difference(moments, whole["moments"][name]) < 1e-6


@pytest.mark.slow
def test_weights_of_a_file_are_loaded(options) -> None:
    for result in options[1]:
        runs = result["runs"]
        assert largest_difference(runs["loaded"]["weights"], runs["ddp"]["weights"]) == 0


def test_export_and_number_of_checkpoints(core) -> None:
    folder, results = core
    names = sorted(path.name for path in (folder / "fsdp").glob("*.dcp"))
    assert names == ["model_0000004.dcp", "model_0000005.dcp", "model_final.dcp"]
    checkpoint, exported = folder / "fsdp" / "model_final.dcp", folder / "final.safetensors"
    assert checkpoint_command(["convert", str(checkpoint), str(exported)]) == 0
    weights = results[0]["runs"]["fsdp"]["weights"]
    assert largest_difference(load_file(exported), weights) == 0
    assert read_state(checkpoint)["iteration"] == 5


@pytest.mark.slow
def test_averaged_weights_are_read_from_the_folder(options) -> None:
    folder, results = options
    state = read_state(f"{folder}/averaged-fsdp/model_final.dcp?ema=True")["model"]
    for name, average in results[0]["runs"]["averaged fsdp"]["averages"].items():
        assert torch.equal(state[name], average)


def test_processes_evaluate_independently(core) -> None:
    assert [len(result["evaluation"][0]) for result in core[1]] == [2, 5]
    for result in core[1]:
        for output, expected in zip(*result["evaluation"], strict=True):
            torch.testing.assert_close(output, expected)


def test_what_cannot_be_sharded_is_named(core) -> None:
    messages = core[1][0]["errors"]
    assert "TEST.BEST_CHECKPOINT_METRIC does not go with SOLVER.FSDP.ENABLED" in messages["best"]
    assert "the parameter scale has no dimension to shard" in messages["scalar"]
    assert "layers.1.0.weight is also a parameter of another layer" in messages["shared"]
    with pytest.raises(ShardingError, match="needs several processes"):
        shard_model(nn.Linear(2, 2), 0)


def test_allocated_state_changes_nothing() -> None:
    """An optimizer whose state was created before trains like a new one."""
    results = []
    for allocated in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        if allocated:
            allocate_optimizer_state(optimizer)
            assert len(optimizer.state) == 2
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        results.append(model.weight.detach())
    assert torch.equal(*results)


@pytest.mark.slow
def test_three_steps_of_hipie(tmp_path) -> None:
    """One step a task, with dropout: weights within 1e-5, half of the parameters a process."""
    for result in run_processes(tmp_path, "hipie"):
        runs = result["runs"]
        for kind in ("fsdp", "recomputed fsdp"):
            assert runs[kind]["losses"] == pytest.approx(runs["ddp"]["losses"], rel=1e-5)
            assert largest_difference(runs[kind]["weights"], runs["ddp"]["weights"]) < 1e-5
            assert runs[kind]["bytes"] < 0.51 * runs["ddp"]["bytes"]
