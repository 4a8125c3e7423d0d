"""Processes of one machine that share the images of a run.

The process of the run hands out images, records the results in the order of the inputs, and lets
the process that has segmented an image write its files. So the records, class ids and lines on the
standard output are those of one process, and only one process appends to the records.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count as count_from
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from hipie.batch_inference.inputs import Input
from hipie.batch_inference.progress import RunProgress
from hipie.batch_inference.tasks import Failure, Task, read_ahead, read_tasks
from hipie.batch_inference.worker_process import (
    BuildSegment,
    Job,
    Ready,
    Result,
    Start,
    WriteOrder,
    Written,
    format_names,
    work,
)
from hipie.errors import MachineError, UnexpectedError, UsageError
from hipie.spawned_process import run_quietly

if TYPE_CHECKING:
    from hipie.batch_inference.recorder import Recorder

# Images that a process has at a time: one that it segments, and one that it reads.
JOBS_PER_WORKER = 2
# Images that may be segmented before an earlier one, for each process.
WINDOW_PER_WORKER = 4
# How often an image is tried whose process ends.
MAX_ATTEMPTS = 2
# Processes in a row that may end without having had an image.
MAX_IDLE_DEATHS = 3
# Seconds that processes have to write files, and to end.
GRACE = 10.0


@dataclass(eq=False)
class _Entry:
    """A task in its turn, and what has become of it."""

    task: Task
    number: int
    worker: _Worker | None = None
    attempts: int = 0
    answer: Result | None = None

    @property
    def is_ready(self) -> bool:
        return not self.task.is_needed or self.answer is not None


@dataclass(eq=False)
class _Worker:
    """A process, and the entries that it has."""

    process: Any
    connection: Connection
    is_ready: bool = False
    entries: list[_Entry] = field(default_factory=list)
    is_reserved: bool = False
    """Whether it has an image with which another process has ended, and gets no other one."""


class WorkerPool:
    """Processes that segment images, each with a model of its own.

    A process that ends is replaced, and its images are tried again; an image whose process ends
    twice is a failure. Processes end with the one that made them, whatever ends it.

    Args:
        count: of the processes, at least 1.
        build: builds the model in a process; it can be pickled.
        threads: of PyTorch in each process; by default its share of the processors, or what
            `OMP_NUM_THREADS` says.
        start_method: of `multiprocessing`. Processes that are forked start at once, but may not use
            a GPU or OpenMP after their parent has, and outlive one that is killed.

    Attributes:
        content: what `build` says about the model; it is the same in all processes.

    Raises:
        HipieError: if the model cannot be built.
    """

    def __init__(
        self,
        count: int,
        build: BuildSegment,
        threads: int | None = None,
        start_method: str = "spawn",
    ) -> None:
        self.count = count
        self._build = build
        self._threads = _share_of_threads(count) if threads is None else threads
        self._context: Any = get_context(start_method)
        self._workers: list[_Worker] = []
        self._started = self._idle_deaths = 0
        self._start: Start | None = None
        self._numbers = count_from(1)
        self._entries: dict[int, _Entry] = {}
        self._window: deque[_Entry] = deque()
        self._writing: dict[int, _Entry] = {}
        self._recorder: Recorder | None = None
        self.content: Mapping[str, Any] = {}
        try:
            for _ in range(count):
                self._add_worker()
            while not any(worker.is_ready for worker in self._workers):
                self._receive(None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.process.terminate()
        end = time.monotonic() + GRACE
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._workers.clear()

    def process(
        self, inputs: Sequence[Input], recorder: Recorder, max_pixels: int, progress: RunProgress
    ) -> None:
        """Segment the inputs of a run.

        Args:
            inputs: see `find_inputs`.
            recorder: gets the results in the order of the inputs.
            max_pixels: larger images are not read.
            progress: is told about every image.

        Raises:
            HipieError: see `hipie.batch_inference.run`; if processes end without a reason in an
                image.
        """
        folder = recorder.folder
        names = format_names(recorder.formats)
        self._entries.clear()
        self._window.clear()
        self._writing.clear()
        first, directory = next(self._numbers), os.getcwd()
        self._start = Start(first, directory, str(folder.path), folder.settings, names, max_pixels)
        self._recorder = recorder
        for worker in list(self._workers):
            if worker.is_ready:
                self._send(worker, self._start)
        reader = read_ahead(read_tasks(inputs, folder, max_pixels, decode=False))
        with closing(recorder), reader as tasks:
            try:
                self._process(tasks, recorder, progress)
            finally:
                self._finish_writing()

    def _process(self, tasks: Iterator[Task], recorder: Recorder, progress: RunProgress) -> None:
        size, is_exhausted = WINDOW_PER_WORKER * self.count, False
        while True:
            while not is_exhausted and len(self._window) < size:
                task = next(tasks, None)
                if task is None:
                    is_exhausted = True
                else:
                    entry = _Entry(task, next(self._numbers))
                    self._entries[entry.number] = entry
                    self._window.append(entry)
            self._assign()
            is_settled = False
            while self._window and self._window[0].is_ready:
                self._settle(self._window.popleft(), recorder, progress)
                is_settled = True
            if is_exhausted and not self._window and not self._writing:
                return
            self._receive(0 if is_settled else None)

    def _assign(self) -> None:
        """Give the images that no process has to processes with room for them."""
        for entry in self._window:
            if entry.is_ready or entry.worker is not None:
                continue
            limit = 1 if entry.attempts else JOBS_PER_WORKER
            free = [
                worker
                for worker in self._workers
                if worker.is_ready and not worker.is_reserved and len(worker.entries) < limit
            ]
            if not free:
                if entry.attempts:
                    continue
                return
            worker = min(free, key=lambda one: len(one.entries))
            worker.entries.append(entry)
            worker.is_reserved = bool(entry.attempts)
            entry.worker = worker
            self._send(worker, Job(entry.number, entry.task.image, entry.task.pixels))

    def _settle(self, entry: _Entry, recorder: Recorder, progress: RunProgress) -> None:
        """Record what has become of the next task."""
        task, answer = entry.task, entry.answer
        if answer is None:
            recorder.skip(task)
        elif answer.result is None:
            failure = answer.failure
            assert failure is not None
            if answer.is_read and recorder.is_fatal(failure):
                raise failure.to_error()
            recorder.fail(task, failure.to_error())
        else:
            record = recorder.record(task, answer.result)
            recorder.print_lines(record)
            self._writing[entry.number] = entry
            if entry.worker is None:
                self._write_here(entry)
            else:
                classes = recorder.folder.classes
                order = WriteOrder(entry.number, record.name, record.version, classes)
                self._send(entry.worker, order)
        if entry.number not in self._writing:
            self._entries.pop(entry.number, None)
        if task.video is None:
            progress.advance(recorder.names[task.image], task.is_needed)

    def _write_here(self, entry: _Entry) -> None:
        """Write the files of an image in this process: the other one has ended."""
        assert self._recorder is not None
        self._forget(entry)
        self._recorder.write_record(entry.task)

    def _forget(self, entry: _Entry) -> None:
        self._writing.pop(entry.number, None)
        self._entries.pop(entry.number, None)

    def _receive(self, timeout: float | None) -> None:
        """Process the messages that have come, after waiting for one."""
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            if isinstance(message, Ready):
                self._make_ready(worker, message)
            elif isinstance(message, Result):
                self._idle_deaths = 0
                (entry,) = (one for one in worker.entries if one.number == message.number)
                worker.entries.remove(entry)
                worker.is_reserved = False
                entry.answer = message
                if message.result is None:
                    entry.worker = None
            else:
                self._count_written(message)

    def _count_written(self, message: Written) -> None:
        entry = self._writing.get(message.number)
        if entry is None or self._recorder is None:
            return
        self._forget(entry)
        if message.failure is not None and message.is_fatal:
            raise message.failure.to_error()
        self._recorder.count_written(entry.task, message.failure, computed=True)

    def _make_ready(self, worker: _Worker, message: Ready) -> None:
        failure = message.failure
        if failure is not None:
            if not message.is_usage:
                raise failure.to_error()
            error = UsageError(failure.message)
            raise error.on_command_line(failure.command_line) if failure.command_line else error
        if not self.content:
            self.content = message.content
        elif self.content != message.content:
            raise UnexpectedError(
                "the processes have built models with different weights; load weights from a file, "
                "or use one process"
            )
        worker.is_ready = True
        if self._start is not None:
            self._send(worker, self._start)

    def _send(self, worker: _Worker, message: Any) -> None:
        """Send a message; a process that has ended is noticed by `_receive`."""
        with suppress(OSError):
            worker.connection.send(message)

    def _add_worker(self) -> None:
        parent, child = self._context.Pipe()
        rank = self._started % self.count
        is_first = self._started == 0
        process = self._context.Process(target=run_quietly, args=(child, is_first), daemon=True)
        with _interrupts_blocked():
            process.start()
        child.close()
        self._started += 1
        self._workers.append(_Worker(process, parent))
        parent.send((work, (self._build, rank, self._threads)))

    def _replace(self, worker: _Worker) -> None:
        """Start another process in place of one that has ended, and try its images again."""
        worker.process.join(GRACE)
        cause = _cause_of_end(worker.process.exitcode)
        worker.connection.close()
        self._workers.remove(worker)
        for entry in worker.entries:
            entry.worker = None
            entry.attempts += 1
            if entry.attempts >= MAX_ATTEMPTS:
                message = (
                    f"{entry.task.image.file}: the process that segmented it has ended "
                    f"{entry.attempts} times ({cause})"
                )
                entry.answer = Result(entry.number, None, Failure("bug", message))
        for entry in self._entries.values():
            if entry.worker is worker:
                entry.worker = None
        for entry in list(self._writing.values()):
            if entry.worker is None:
                self._write_here(entry)
        if not worker.entries:
            self._idle_deaths += 1
            if self._idle_deaths >= MAX_IDLE_DEATHS:
                raise MachineError(
                    f"processes that segment images have ended {self._idle_deaths} times "
                    f"({cause}); with fewer --workers each has more memory"
                )
        self._add_worker()

    def _finish_writing(self) -> None:
        """Let the processes write the files of the records, also after an error."""
        end = time.monotonic() + GRACE
        while self._writing and (left := end - time.monotonic()) > 0:
            connections = {worker.connection: worker for worker in self._workers}
            for connection in wait(list(connections), left):
                worker = connections[connection]  # type: ignore[index]
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    self._workers.remove(worker)
                    worker.connection.close()
                    for entry in list(self._writing.values()):
                        if entry.worker is worker:
                            self._write_here(entry)
                    continue
                if isinstance(message, Written):
                    self._count_written(message)


def _share_of_threads(count: int) -> int:
    if os.environ.get("OMP_NUM_THREADS"):
        return 0
    is_known = hasattr(os, "sched_getaffinity")
    processors = len(os.sched_getaffinity(0)) if is_known else os.cpu_count() or 1
    return max(1, processors // count)


def _cause_of_end(status: int | None) -> str:
    if status is not None and status < 0:
        with suppress(ValueError):
            return f"signal {signal.Signals(-status).name}"
        return f"signal {-status}"
    return f"exit status {status}"


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let processes that start in the context never get Ctrl-C, which their parent handles."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
