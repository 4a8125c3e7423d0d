"""Workers end by their parent only, and without a fault."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from hipie.data.worker_signals import forks_outlive_group_signals

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="senders of signals are unknown")


def test_worker_ends_by_its_parent_with_status_0() -> None:
    """PyTorch reports workers that a signal has ended as a fault, also at the exit."""
    with forks_outlive_group_signals():
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    other = os.fork()
    if not other:
        os.kill(worker.pid, signal.SIGTERM)
        os._exit(0)
    os.waitpid(other, 0)
    worker.join(1)
    assert worker.is_alive(), "the signal of another process, as one to the group, is ignored"
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


STARTING_WORKERS = """
import multiprocessing, os, signal, time
from hipie.data.worker_signals import blocked_signals, outlive_group_signals

class Slow:
    def __reduce__(self):
        return time.sleep, (2,)

def work(slow, lock):
    outlive_group_signals()
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    locks = [context.Lock(), context.Lock()]
    with blocked_signals():
        for lock in locks:
            worker = context.Process(target=work, args=(Slow(), lock), daemon=True)
            worker.start()
    # A signal to the group comes first, and hides that of the parent.
    if os.fork() == 0:
        os.kill(worker.pid, signal.SIGTERM)
        os._exit(0)
    os.wait()
"""


def test_exit_waits_for_workers_that_are_starting(tmp_path) -> None:
    """Without a traceback of theirs for semaphores that are removed, and without hanging."""
    program = tmp_path / "program.py"
    program.write_text(STARTING_WORKERS)
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
