"""Queue of requests before the model, which one thread runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from hipie.error_report import as_hipie_errors


@dataclass(eq=False)
class Job:
    """A request that waits for the model.

    Attributes:
        run: computes the result, in the thread of the model.
        batch_key: jobs with equal keys run together; None = alone.
        prepared: what the batch is prepared from, such as the image.
        result: the result of `run`, or its error; cancel it to leave the queue.
    """

    run: Callable[[], Any]
    batch_key: Hashable | None = None
    prepared: Any = None
    result: Future[Any] = field(default_factory=Future)


class InferenceQueue:
    """Runs jobs one after another, in their order, in a thread of its own.

    A job takes those behind it with the same key along, up to `max_batch`: nothing waits for a
    batch, it forms while the model is busy.

    Args:
        prepare_batch: called with `prepared` of all jobs of a batch of at least two.
        max_batch: jobs that run together.
        observe_batch: called with the size of every batch.
    """

    def __init__(
        self,
        prepare_batch: Callable[[Sequence[Any]], None],
        max_batch: int,
        observe_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._prepare_batch = prepare_batch
        self._max_batch = max_batch
        self._observe_batch = observe_batch
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="hipie-model", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Number of jobs that wait."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Append a job.

        Raises:
            RuntimeError: after `close`.
        """
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the queue is closed")
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Finish the job that runs, cancel those that wait, and end the thread."""
        with self._changed:
            self._is_closed = True
            for job in self._jobs:
                job.result.cancel()
            self._jobs.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            running = [job for job in batch if job.result.set_running_or_notify_cancel()]
            if running:
                self._observe_batch(len(running))
                self._run(running)
            # The last results and images must not be kept while the thread waits.
            del batch, running

    def _next_batch(self) -> list[Job]:
        """Wait for a job, and return it with those that run together with it; [] at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_closed)
            if not self._jobs:
                return []
            first = self._jobs.popleft()
            if first.batch_key is None:
                return [first]
            others = [job for job in self._jobs if job.batch_key == first.batch_key]
            batch = [first, *others[: self._max_batch - 1]]
            for job in batch[1:]:
                self._jobs.remove(job)
            return batch

    def _run(self, batch: list[Job]) -> None:
        if len(batch) > 1:
            try:
                self._prepare_batch([job.prepared for job in batch])
            except BaseException as error:  # noqa: BLE001 - every job gets the error
                for job in batch:
                    job.result.set_exception(error)
                return
        for job in batch:
            try:
                with as_hipie_errors():
                    result = job.run()
            except BaseException as error:  # noqa: BLE001 - the job gets the error
                job.result.set_exception(error)
            else:
                job.result.set_result(result)
