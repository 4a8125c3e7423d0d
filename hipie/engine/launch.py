"""Launch a program in one process, in several on the CPU (gloo), on GPUs, or under torchrun."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import launch as launch_on_gpus
from detectron2.utils import comm

TIMEOUT = timedelta(minutes=30)


def launch(
    main: Callable[..., None],
    arguments: tuple[Any, ...],
    *,
    num_gpus: int = 0,
    cpu_workers: int = 1,
) -> None:
    """Run `main(*arguments)` in one process or in several.

    Under torchrun (`RANK` and `WORLD_SIZE` are set) this process joins torchrun's process group,
    and the two counts are ignored.

    Args:
        main: a function that can be pickled.
        arguments: its arguments.
        num_gpus: GPUs of this machine; several are started by Detectron2's own launcher.
        cpu_workers: processes on the CPU, joined by gloo.

    Raises:
        ValueError: if both counts are above 1.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _join_torchrun()
        main(*arguments)
        dist.destroy_process_group()
    elif cpu_workers > 1 and num_gpus > 1:
        raise ValueError("--num-gpus and --cpu-workers cannot both be above 1")
    elif cpu_workers > 1:
        address = f"tcp://127.0.0.1:{_free_port()}"
        worker_arguments = (cpu_workers, address, main, arguments)
        mp.spawn(_cpu_worker, nprocs=cpu_workers, args=worker_arguments)
    else:
        if num_gpus < 2:
            set_num_threads()
        launch_on_gpus(main, max(num_gpus, 1), args=arguments)


def set_num_threads(processes: int = 1) -> int:
    """Set PyTorch's threads to this process's share of the cores, unless OMP_NUM_THREADS is set.

    Args:
        processes: number of processes that share the machine.

    Returns:
        The number of PyTorch's threads.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        try:
            cores = len(os.sched_getaffinity(0))
        except AttributeError:  # not on macOS and Windows
            cores = os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // processes))
    return torch.get_num_threads()


def _join_torchrun() -> None:
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group(backend, timeout=TIMEOUT)
    comm.create_local_process_group(int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size())))


def _cpu_worker(
    rank: int, world_size: int, address: str, main: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    set_num_threads(world_size)
    dist.init_process_group(
        "gloo", init_method=address, world_size=world_size, rank=rank, timeout=TIMEOUT
    )
    comm.create_local_process_group(world_size)
    main(*arguments)
    dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
