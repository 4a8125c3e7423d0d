"""One failure ends all processes, with its cause."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import pytest
import torch.distributed as dist

from hipie.engine import failures
from hipie.engine.failures import FailureMonitor, PeerError
from hipie.errors import InputError

ROOT = Path(__file__).parents[2]
GLOO_ERROR = "[gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:41160."


@pytest.fixture(autouse=True)
def _short_times(monkeypatch):
    monkeypatch.setattr(failures, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(failures, "CAUSE_SECONDS", 1.0)
    monkeypatch.setattr(failures, "GRACE_SECONDS", 0.3)
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def exits(monkeypatch):
    """Statuses with which processes were ended."""
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    return statuses


def run_threads(store: dist.Store, *works) -> list[BaseException | None]:
    """Run a function a rank, each in a monitor of its own; return what each of them raised."""
    raised: list[BaseException | None] = [None] * len(works)

    def run(rank: int) -> None:
        try:
            with FailureMonitor(store, rank, len(works), rank):
                works[rank]()
        except BaseException as error:  # noqa: BLE001 - what the test looks at
            raised[rank] = error

    threads = [Thread(target=run, args=(rank,)) for rank in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return raised


def fail(error: BaseException, after: float = 0.0):
    def work() -> None:
        time.sleep(after)
        raise error

    return work


def test_lost_connection_is_explained_by_the_failure_of_the_other(store, exits):
    cause = InputError("the image a.jpg\ncannot be read")
    lost = fail(RuntimeError(GLOO_ERROR))  # raised before the cause is written
    first, second, third = run_threads(store, lost, fail(cause, after=0.2), lost)
    assert second is cause
    assert str(first) == str(third) == "process 1 failed: the image a.jpg cannot be read"
    assert isinstance(first, PeerError) and not first.is_quiet
    assert isinstance(third, PeerError) and third.is_quiet
    assert exits == []


def test_first_of_several_failures_is_the_cause(store, exits):
    first, second = run_threads(store, fail(KeyError("late"), after=0.4), fail(ValueError("early")))
    assert isinstance(second, ValueError)
    assert str(first) == "process 1 failed: ValueError: early"


def test_process_that_does_not_notice_the_failure_is_ended(store, exits, caplog):
    released = Event()

    def wait() -> None:
        assert released.wait(20)

    def fail_and_release() -> None:
        def release() -> None:
            while not exits:
                time.sleep(0.02)
            released.set()

        Thread(target=release, daemon=True).start()
        raise ValueError("bad batch")

    run_threads(store, wait, fail_and_release)
    assert exits == [1]
    assert "process 1 failed: ValueError: bad batch" in caplog.text


def test_process_that_leaves_in_time_is_not_ended(store, exits, monkeypatch):
    monkeypatch.setattr(failures, "GRACE_SECONDS", 19.0)
    first, _ = run_threads(store, lambda: time.sleep(0.2), fail(ValueError("bad batch")))
    assert first is None
    assert exits == []


def test_lost_connection_without_a_cause_says_so(store, exits):
    (error,) = run_threads(store, fail(RuntimeError(GLOO_ERROR)))
    assert isinstance(error, PeerError)
    assert "killed, or out of memory?" in str(error)


@pytest.mark.parametrize("error", [SystemExit(130), None])
def test_exit_and_success_are_no_failures(store, exits, error):
    first, second = run_threads(
        store, fail(error) if error else lambda: None, lambda: time.sleep(0.2)
    )
    assert first is error
    assert second is None
    assert exits == []


def test_process_whose_store_has_gone_is_ended(exits):
    server = (
        "import torch.distributed as dist\n"
        "store = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)\n"
        "print(store.port, flush=True)\n"
        "input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    client = dist.TCPStore("127.0.0.1", int(process.stdout.readline()), is_master=False)
    with FailureMonitor(client, 1, 2, 1):
        process.kill()
        process.wait()
        end = time.monotonic() + 20
        while not exits and time.monotonic() < end:
            time.sleep(0.05)
    assert exits == [1]


def test_torchrun_gets_the_first_cause_only(store, exits, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    run_threads(store, fail(RuntimeError(GLOO_ERROR)), fail(ValueError("bad batch"), after=0.2))
    recorded = json.loads((tmp_path / "error.json").read_text())
    assert recorded["message"]["message"] == "ValueError: bad batch"


def run_failing(kind: str) -> tuple[str, float]:
    """Output of `failing_process.py`, and the seconds it took after the processes had met."""
    command = [sys.executable, "tests/engine/failing_process.py", kind, "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout.readline() == "met\n"
    start = time.monotonic()
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    return output, time.monotonic() - start


def test_exception_in_one_process_ends_one_that_waits_forever():
    output, seconds = run_failing("asleep")
    assert "process 1 failed: the image a.jpg cannot be read" in output
    assert seconds < 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raise", "PeerError: process 1 failed: the image a.jpg cannot be read"),
        ("first", "InputError: the image a.jpg cannot be read"),
        ("killed", "process 1 terminated with signal SIGKILL"),
    ],
)
def test_process_group_is_destroyed_after_a_failure(kind, message):
    output, seconds = run_failing(kind)
    assert message in output
    assert output.count("group destroyed: True") == (1 if kind == "killed" else 2)
    assert seconds < 30
