"""Workers end by their parent only, and without a fault."""

from __future__ import annotations

import multiprocessing
import os
import signal
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
