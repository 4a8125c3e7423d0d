"""Programs of several CPU processes in which one fails; `failing_process.py KIND`.

The other processes wait: in a collective operation (gloo), or asleep, as in an operation that does
not notice the failure of its partner (NCCL).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager

import torch
import torch.distributed as dist

from hipie.engine.launch import launch
from hipie.errors import InputError


@contextmanager
def destroyed_afterwards():
    """Context that says whether the process group is destroyed in the end."""
    try:
        yield
    finally:
        print(f"group destroyed: {not dist.is_initialized()}", flush=True)


def main(kind: str) -> None:
    rank = dist.get_rank()
    dist.barrier()
    if rank == 0:
        print("met", flush=True)
    dist.barrier()
    if rank == (0 if kind == "first" else 1):
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise InputError("the image a.jpg cannot be read")
    if kind == "asleep":
        time.sleep(600)
    dist.all_reduce(torch.ones(1))


if __name__ == "__main__":
    launch(main, (sys.argv[1],), cpu_workers=int(sys.argv[2]), reporting=destroyed_afterwards)
