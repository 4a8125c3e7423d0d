"""Signals to a process group, of which workers of a loader or of a pool are members.

`timeout`, SLURM, Docker and Ctrl-C in a terminal send a signal to a whole group. The process that
trains then finishes its iteration and saves a checkpoint, for which it needs its workers. So a
worker ends only when its parent says so.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import util
from multiprocessing.process import BaseProcess

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that end a run, after a checkpoint."""


# Seconds that the exit of a process waits for workers which are still starting.
EXIT_SECONDS = 120.0
# Before the finalizers of queues and semaphores, whose priority is 0 and more.
EXIT_PRIORITY = 100


class _Started:
    """Workers of this process that were started with signals blocked."""

    workers: set[BaseProcess] = set()  # noqa: RUF012
    process = 0


class _Forks:
    """State of the hooks that are called when this process forks."""

    registered = False
    active = 0
    mask: set[signal.Signals] | set[int] | None = None
    outliving = 0


def outlive_group_signals() -> None:
    """Ignore the signals that end a run, in a worker; SIGTERM of its parent still ends it.

    Without effect where the system does not tell who sent a signal (macOS, Windows).
    """
    if not hasattr(signal, "sigwaitinfo") or _Forks.outliving == os.getpid():
        return
    _Forks.outliving = os.getpid()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP_SIGNALS} - {signal.SIGTERM})
    parent = os.getppid()
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block the signals that end a run, which this process gets after the context.

    A process that is started in the context has them blocked until it calls
    `outlive_group_signals`, so that none ends it before. At the exit of this process those that
    still run are ended, before the semaphores are removed that they need to start.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = set(multiprocessing.active_children())
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _end_at_exit(set(multiprocessing.active_children()) - before)


def _end_at_exit(workers: set[BaseProcess]) -> None:
    if _Started.process != os.getpid():
        _Started.process, _Started.workers = os.getpid(), set()
        util.Finalize(None, end_workers, exitpriority=EXIT_PRIORITY)
    running = multiprocessing.active_children()
    _Started.workers = {worker for worker in running if worker in _Started.workers | workers}


def end_workers() -> None:
    """End the workers of this process that were started in `blocked_signals`, and wait for them.

    A signal that a worker gets while another one waits for it is lost; so it is repeated.
    """
    limit = time.monotonic() + EXIT_SECONDS
    for worker in _Started.workers:
        while worker.is_alive() and time.monotonic() < limit:
            worker.terminate()
            worker.join(0.5)


@contextmanager
def forks_outlive_group_signals() -> Iterator[None]:
    """Call `outlive_group_signals` in every process that is forked in the context."""
    if not _Forks.registered and hasattr(os, "register_at_fork"):
        _Forks.registered = True
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
        )
    _Forks.active += 1
    try:
        yield
    finally:
        _Forks.active -= 1


def _before_fork() -> None:
    # The child starts with the signals blocked, so that none reaches it before it is ready.
    if _Forks.active:
        _Forks.mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _after_in_parent() -> None:
    if _Forks.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _Forks.mask)
        _Forks.mask = None


def _after_in_child() -> None:
    if _Forks.mask is None:
        return
    if threading.current_thread() is threading.main_thread():
        outlive_group_signals()
    _Forks.mask, _Forks.active = None, 0


def _end_with_parent(parent: int) -> None:
    """End this process on SIGTERM of its parent, or of anybody once the parent has ended.

    With status 0: PyTorch takes a worker that a signal has ended for a fault, and at the exit of a
    process that was spawned, multiprocessing ends workers by SIGTERM.
    """
    while True:
        sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
        if sender == parent or os.getppid() != parent:
            os._exit(0)
