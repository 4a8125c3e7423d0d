"""The first failure of a group of processes, known to all of them within seconds.

An exception in one process leaves the others in a collective operation: gloo raises an error about
a closed connection, NCCL waits for the timeout of the process group. So the failing process writes
the cause to the store that the group met in, and a thread of every process watches for it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from contextlib import suppress
from types import TracebackType

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from hipie.errors import HipieError
from hipie.logs import get_logger

logger = get_logger(__name__)

POLL_SECONDS = 0.5
CAUSE_SECONDS = 2.0
"""Time that a process waits for the cause of a lost connection, and for others to read its own."""
GRACE_SECONDS = 5.0
"""Time that a process has to end by itself after another one has failed."""
FIRST, READ, DONE = "first", "read", "done"
# Errors of collective operations whose partner has gone are plain RuntimeErrors.
CONNECTION_WORDS = ("gloo/transport", "NCCL", "Connection closed by peer", "Connection reset")


class PeerError(HipieError):
    """Failure of another process of the group.

    Attributes:
        is_quiet: whether another process of this machine says so already.
    """

    def __init__(self, message: str, is_quiet: bool = False) -> None:
        super().__init__(message)
        self.is_quiet = is_quiet


class FailureMonitor:
    """Context in which a process of a group fails when any process of the group does.

    An exception in the context is written to the store. The other processes raise `PeerError` with
    its message: when they raise an error themselves, such as one about a closed connection, or
    else, if they have not left the context after `GRACE_SECONDS`, by exiting with status 1. Under
    torchrun the first failure is also written to its error file.

    SystemExit is no failure: all processes raise it together (see `CheckpointOnSignal`).

    Args:
        store: in which the group met.
        rank: of this process.
        world_size: number of processes.
        local_rank: of this process on its machine.
    """

    def __init__(self, store: Store, rank: int, world_size: int, local_rank: int) -> None:
        # A client of its own: one that waits for a key blocks all other calls.
        client = store.clone() if hasattr(store, "clone") else store
        self._store = PrefixStore("hipie_failures", client)
        self._rank, self._world_size, self._local_rank = rank, world_size, local_rank
        self._left = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="failures", daemon=True)

    def __enter__(self) -> FailureMonitor:
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None or isinstance(error, SystemExit):
                with suppress(dist.DistError, RuntimeError):
                    self._finish()
            else:
                self._fail(error)
        finally:
            self._left.set()

    def _fail(self, error: BaseException) -> None:
        """Write the cause of the group's failure, unless another process did.

        Raises:
            PeerError: if the cause is in another process.
        """
        message = cause_of(error)
        if is_connection_error(error):
            # Caused by another process, which may be about to write its own error.
            self._wait_for(FIRST, CAUSE_SECONDS)
            message = (
                "the connection to another process was lost, which has ended without a message "
                "(killed, or out of memory?)"
            )
        try:
            own = json.dumps({"rank": self._rank, "message": message})
            first = json.loads(self._store.compare_set(FIRST, "", own))
        except (dist.DistError, RuntimeError):  # the process with the store has ended
            first = {"rank": self._rank, "message": message}
        if first["rank"] != self._rank:
            raise self._peer_error(first) from error
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            get_error_handler().record_exception(error)
        # The store may end with this process: the others read it first.
        with suppress(dist.DistError, RuntimeError):
            self._wait_for_readers()
        if is_connection_error(error):
            raise PeerError(message) from error

    def _finish(self) -> None:
        """Tell that this process is done; the first one, whose store others use, waits for them."""
        self._store.add(DONE, 1)
        end = time.monotonic() + GRACE_SECONDS
        while self._rank == 0 and time.monotonic() < end:
            if self._store.add(DONE, 0) == self._world_size or self._store.check([FIRST]):
                return
            time.sleep(0.05)

    def _watch(self) -> None:
        """Watch for the first failure, and end this process if it does not end by itself."""
        try:
            while not self._store.check([FIRST]):
                if self._left.wait(POLL_SECONDS):
                    return
            first = json.loads(self._store.get(FIRST))
            if first["rank"] == self._rank:
                return
            self._store.add(READ, 1)
        except (dist.DistError, RuntimeError):
            first = {"rank": 0, "message": "it has ended without a message"}
        if self._left.wait(GRACE_SECONDS):
            return
        logger.error("%s", self._peer_error(first))
        logging.shutdown()
        os._exit(1)

    def _peer_error(self, first: dict[str, str]) -> PeerError:
        message = f"process {first['rank']} failed: {first['message']}"
        return PeerError(message, is_quiet=self._local_rank != 0)

    def _wait_for(self, key: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        with suppress(dist.DistError, RuntimeError):
            while not self._store.check([key]) and time.monotonic() < end:
                time.sleep(0.05)

    def _wait_for_readers(self) -> None:
        end = time.monotonic() + CAUSE_SECONDS
        while self._store.add(READ, 0) < self._world_size - 1 and time.monotonic() < end:
            time.sleep(0.05)


def is_connection_error(error: BaseException) -> bool:
    """Whether an error says that another process of a collective operation has gone."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(word in text for word in CONNECTION_WORDS)


def cause_of(error: BaseException) -> str:
    """Return an error's message in one line, with its type unless it is about the input."""
    text = " ".join(str(error).split())
    if isinstance(error, HipieError) and text:
        return text
    kind = type(error).__name__
    return f"{kind}: {text}" if text else kind
