"""train_net.py under torchrun: several processes, several agents, failures and restarts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hipie.engine.launch import _free_port
from tests.cli.recorded_training import CASES

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "tests/tiny.yaml")
MODULE = str(ROOT / "tests/cli/recorded_training.py")
TIMEOUT = 550


def start(launcher: list[str], *arguments: str, fail_at: str = "") -> subprocess.Popen[str]:
    """Start train_net.py by a launcher, [] for one process."""
    command = [
        *(sys.executable, *launcher, "train_net.py"),
        *("--config-file", TINY, "--import", MODULE, *arguments),
        *("MODEL.DEVICE", "cpu", "DATASETS.TEST", "()"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if fail_at:
        environment["FAIL_AT"] = fail_at
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def torchrun(processes: int, *options: str) -> list[str]:
    """Launcher of several processes of one agent."""
    return [
        *("-m", "torch.distributed.run", "--nproc-per-node", str(processes)),
        *("--master-port", str(_free_port()), *options),
    ]


def finish(*started: subprocess.Popen[str], failing: bool = False) -> list[str]:
    """Wait for programs, and return their outputs."""
    try:
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, output in zip(started, outputs, strict=True):
        assert (process.returncode != 0) == failing, output[-5000:]
    return outputs


def case_options(processes: int, text: Path, folder: Path) -> list[str]:
    """Two batches of every case, one image a process, without a change of the weights."""
    names = tuple(f"case_{name}" for name in CASES[processes])
    return [
        *("OUTPUT_DIR", str(folder), "MODEL.HIPIE.TEXT.SOURCE", str(text)),
        *("DATASETS.TRAIN", repr(names), "SOLVER.MAX_ITER", str(2 * len(names))),
        *("DATALOADER.CHECK_FILES", "False"),
        *("DATALOADER.DATASET_BATCH_SIZE", "()", "SOLVER.IMS_PER_BATCH", str(processes)),
        *("SOLVER.BASE_LR", "0.0", "DATALOADER.DATASET_RATIO", "()"),
    ]


def assert_equal_training(
    single: Path, folder: Path, processes: int, steps: int, skipped: int | None = None
) -> None:
    """Compare losses and gradients of one process with those of several, which skip one step."""
    expected = torch.load(single / "recorded0.pt")
    for rank in range(processes):
        recorded = torch.load(folder / f"recorded{rank}.pt")
        assert len(recorded["gradients"]) == steps
        assert recorded["skipped"] == (skipped is not None)
        for step in range(steps):
            if step == skipped:
                continue
            gradients = recorded["gradients"][step]
            assert sum(bool(g.any()) for g in gradients.values()) > 50
            # One process has no gradients of heads that a task does not use. A bias before a
            # normalisation has the gradient 0 and the rounding errors of its large summands.
            differences = {
                name: float((gradient - (0 if of_one is None else of_one)).abs().max())
                for (name, gradient), of_one in zip(
                    gradients.items(), expected["gradients"][step].values(), strict=True
                )
            }
            name = max(differences, key=lambda name: differences[name])
            largest = max(float(gradient.abs().max()) for gradient in gradients.values())
            assert differences[name] <= 1e-5 * max(1.0, largest), (step, name, largest)
            if rank == 0:
                assert len(recorded["losses"][step]) > 10
                assert recorded["losses"][step] == pytest.approx(
                    expected["losses"][step], rel=1e-4, abs=1e-5
                )


def test_two_processes_train_as_one_skip_together_and_end_with_the_first_error(tiny_text, tmp_path):
    steps = 2 * len(CASES[2])
    single = start([], *case_options(2, tiny_text, tmp_path / "single"))
    finish(single)
    two = start(
        torchrun(2),
        *case_options(2, tiny_text, tmp_path / "two"),
        *("SOLVER.MAX_ITER", "1000"),
        fail_at=f"1 3 nan,1 {steps} raise",
    )
    (output,) = finish(two, failing=True)
    assert_equal_training(tmp_path / "single", tmp_path / "two", 2, steps, skipped=3)
    assert re.search(r"Skipped iteration 3, the 1. in a row: .* not finite in process 1\n", output)
    cause = "the image a.jpg cannot be read"
    assert f"train_net.py: {cause}" in output
    assert f"process 1 failed: {cause}" in output
    # The summary of torchrun.
    assert f"InputError: {cause}" in output
    assert "bug of the program" not in output


@pytest.mark.slow
def test_three_processes_train_as_one(tiny_text, tmp_path):
    single, three = tmp_path / "single", tmp_path / "three"
    finish(
        start([], *case_options(3, tiny_text, single)),
        start(torchrun(3), *case_options(3, tiny_text, three)),
    )
    assert_equal_training(single, three, 3, 2 * len(CASES[3]))


def two_agents(port: int, *options: str) -> list[list[str]]:
    """Launchers of two agents on this machine, one process each."""
    return [
        [
            *("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"),
            *("--rdzv-id", "two", "--local-addr", "127.0.0.1", *options),
        ]
        for _ in range(2)
    ]


@pytest.mark.slow
def test_two_agents_train_as_one_process(tiny_text, tmp_path):
    single, two = tmp_path / "single", tmp_path / "two"
    options = case_options(2, tiny_text, two)
    finish(
        start([], *case_options(2, tiny_text, single)),
        *(start(launcher, *options) for launcher in two_agents(_free_port())),
    )
    assert_equal_training(single, two, 2, 2 * len(CASES[2]))


def training_options(tiny_text: Path, tiny_book: Path, folder: Path) -> list[str]:
    """Seven steps on the picture book, a checkpoint after the third and the sixth."""
    return [
        *("OUTPUT_DIR", str(folder), "MODEL.HIPIE.TEXT.SOURCE", str(tiny_text)),
        *("PICTUREBOOK.ROOT", str(tiny_book), "SOLVER.MAX_ITER", "7"),
        *("SOLVER.CHECKPOINT_PERIOD", "3"),
    ]


def assert_equal_states(first: Path, second: Path) -> None:
    """Compare weights and optimizers of two trainings bit by bit."""
    states = [torch.load(folder / "model_final.pth") for folder in (first, second)]
    assert states[0]["iteration"] == states[1]["iteration"] == 6
    for name, value in states[0]["model"].items():
        assert torch.equal(value, states[1]["model"][name]), name
    moments = [state["trainer"]["_trainer"]["optimizer"]["state"] for state in states]
    assert len(moments[0]) > 50
    for index, values in moments[0].items():
        assert all(torch.equal(values[key], moments[1][index][key]) for key in values)


def resumes_in_the_middle(output: str) -> bool:
    """Whether a process went on from a checkpoint: a periodic one, or the one saved at the end."""
    starts = [int(start) for start in re.findall(r"Starting training from iteration (\d+)", output)]
    return any(3 <= start <= 5 for start in starts)


@pytest.fixture(scope="module")
def uninterrupted(tiny_text, tiny_book, tmp_path_factory):
    """Folder of a training of two processes that nothing interrupts."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(start(torchrun(2), *training_options(tiny_text, tiny_book, folder)))
    return folder


@pytest.mark.slow
def test_killed_process_is_restarted_and_resumes_exactly(
    uninterrupted, tiny_text, tiny_book, tmp_path
):
    options = training_options(tiny_text, tiny_book, tmp_path)
    (output,) = finish(
        start(torchrun(2, "--max-restarts", "1"), "--resume", *options, fail_at="1 5 kill")
    )
    assert resumes_in_the_middle(output)
    assert_equal_states(uninterrupted, tmp_path)


@pytest.mark.slow
def test_killed_process_ends_the_run_which_resumes_exactly(
    uninterrupted, tiny_text, tiny_book, tmp_path
):
    options = training_options(tiny_text, tiny_book, tmp_path)
    killed = start(torchrun(2), *options, fail_at="1 5 kill")
    (output,) = finish(killed, failing=True)
    assert "Signal 9 (SIGKILL)" in output
    assert "the connection to another process was lost" in output
    assert not (tmp_path / "model_final.pth").exists()
    finish(start(torchrun(2), "--resume", *options))
    assert_equal_states(uninterrupted, tmp_path)


@pytest.mark.slow
def test_killed_process_of_one_agent_restarts_both(uninterrupted, tiny_text, tiny_book, tmp_path):
    options = training_options(tiny_text, tiny_book, tmp_path)
    launchers = two_agents(_free_port(), "--max-restarts", "2")
    outputs = finish(
        *(start(launcher, "--resume", *options, fail_at="1 5 kill") for launcher in launchers)
    )
    assert any(resumes_in_the_middle(output) for output in outputs)
    assert_equal_states(uninterrupted, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "--cpu-workers"])
def test_sigterm_to_the_launcher_saves_a_checkpoint(launcher, tiny_text, tiny_book, tmp_path):
    options = [*training_options(tiny_text, tiny_book, tmp_path), "SOLVER.MAX_ITER", "100000"]
    if launcher == "torchrun":
        process = start(torchrun(2), *options)
    else:
        process = start([], launcher, "2", *options)
    waited = time.monotonic() + TIMEOUT
    while not (tmp_path / "model_0000002.pth").exists():
        assert process.poll() is None and time.monotonic() < waited
        time.sleep(0.2)
    process.terminate()
    (output,) = finish(process, failing=True)
    assert "a checkpoint is saved; --resume continues from it" in output
    last = torch.load(tmp_path / (tmp_path / "last_checkpoint").read_text())
    assert f"SIGTERM after iteration {last['iteration']}" in output


@pytest.mark.slow
def test_restarts_without_resume_are_refused(tiny_text, tiny_book, tmp_path):
    options = training_options(tiny_text, tiny_book, tmp_path)
    launcher = torchrun(1, "--max-restarts", "1")
    (output,) = finish(start(launcher, *options), failing=True)
    assert "torchrun restarts this command up to 1 times (--max-restarts)" in output
