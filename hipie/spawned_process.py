"""Entry of processes that are spawned: it imports little, so that what follows is quiet."""

from __future__ import annotations

import signal
from multiprocessing.connection import Connection

from hipie.error_report import quiet


def run_quietly(connection: Connection, warn: bool) -> None:
    """Receive a function with its arguments, and call it with the connection before them.

    Args:
        connection: to the process that has started this one, which alone handles Ctrl-C.
        warn: print warnings of this package; see `quiet`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with quiet(warn=warn):
        try:
            function, arguments = connection.recv()
        except (EOFError, OSError):  # that process has ended
            return
        function(connection, *arguments)
