"""Calls in a child process with limits on memory and time, for files that are made to hurt."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MIB = 2**20
_STATUS = "/proc/self/statm"


def call_limited(
    function: Callable[..., Any], *args: Any, mebibytes: int = 512, seconds: int = 20
) -> str:
    """Call a function in a forked process with that much more memory and CPU time.

    Returns:
        The message of the error that it raises after the type's name, `Kind: message`; "returned
        VALUE" if it raises none; "died with STATUS" if the process was ended.
    """
    if not Path(_STATUS).exists():
        pytest.skip("the size of the address space is read from /proc")
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run() -> None:
        used = _address_space() + mebibytes * MIB
        resource.setrlimit(resource.RLIMIT_AS, (used, used))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            sender.send(f"returned {function(*args)!r:.200}")
        except Exception as error:  # noqa: BLE001 - whatever it raises is the outcome
            sender.send(f"{type(error).__name__}: {error}")
        finally:
            sender.close()

    process = context.Process(target=run)
    process.start()
    sender.close()
    try:
        return str(receiver.recv())
    except EOFError:
        process.join()
        return f"died with {process.exitcode}"
    finally:
        process.join(2 * seconds)
        if process.is_alive():
            process.kill()
        receiver.close()


def _address_space() -> int:
    with open(_STATUS) as file:
        return int(file.read().split()[0]) * resource.getpagesize()
