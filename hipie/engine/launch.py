"""Launch a program in one process or several, on CPUs (gloo) or GPUs (NCCL), or under torchrun."""

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

from hipie.errors import InputError

TIMEOUT = timedelta(minutes=30)
AUTO = "auto"
"""Value of `dist_url` for a free port of this machine."""


class LaunchError(InputError):
    """Number of processes, machines or GPUs, or an address, that cannot be used."""


def launch(
    main: Callable[..., None],
    arguments: tuple[Any, ...],
    *,
    num_gpus: int = 1,
    cpu_workers: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = AUTO,
    device: str = "cuda",
) -> None:
    """Run `main(*arguments)` in one process or in several, on one machine or several.

    Under torchrun (`RANK` and `WORLD_SIZE` are set) this process joins torchrun's process group,
    and the counts, the rank and the address are ignored.

    Args:
        main: a function that can be pickled.
        arguments: its arguments.
        num_gpus: GPUs of each machine, one process each, joined by NCCL; see `runs_on_gpu`.
        cpu_workers: processes on the CPU of each machine, joined by gloo.
        num_machines: number of machines; on each of them the program is started once.
        machine_rank: index of this machine.
        dist_url: address of machine 0, such as `tcp://10.0.0.1:29500`.
        device: `MODEL.DEVICE`.

    Raises:
        LaunchError: naming the argument that cannot be used.
    """
    if under_torchrun():
        _join_torchrun(runs_on_gpu(device))
        main(*arguments)
        dist.destroy_process_group()
        return
    on_gpu = runs_on_gpu(device, num_gpus, cpu_workers)
    if cpu_workers > 1 and num_gpus > 1:
        raise LaunchError("--num-gpus and --cpu-workers cannot both be above 1")
    if num_gpus > 1 and not on_gpu:
        reason = "MODEL.DEVICE is cpu" if torch.cuda.is_available() else "there is no CUDA device"
        raise LaunchError(
            f"--num-gpus is {num_gpus}, but {reason}; --cpu-workers is the number of processes on "
            "the CPU"
        )
    if on_gpu and num_gpus > torch.cuda.device_count():
        raise LaunchError(
            f"--num-gpus is {num_gpus}, and this machine has {torch.cuda.device_count()}"
        )
    if not 0 <= machine_rank < num_machines:
        raise LaunchError(
            f"--machine-rank is {machine_rank}; with --num-machines {num_machines} it has to be "
            f"between 0 and {num_machines - 1}"
        )
    if num_machines > 1 and dist_url == AUTO:
        raise LaunchError("--num-machines needs --dist-url tcp://HOST:PORT, which is on machine 0")
    processes = num_gpus if on_gpu else cpu_workers
    if processes * num_machines == 1:
        set_num_threads()
        main(*arguments)
    elif on_gpu:
        launch_on_gpus(
            main, num_gpus, num_machines, machine_rank, dist_url, args=arguments, timeout=TIMEOUT
        )
    else:
        if dist_url == AUTO:
            dist_url = f"tcp://127.0.0.1:{_free_port()}"
        worker_arguments = (cpu_workers, num_machines, machine_rank, dist_url, main, arguments)
        mp.spawn(_cpu_worker, nprocs=cpu_workers, args=worker_arguments)


def under_torchrun() -> bool:
    """Whether torchrun, or a launcher with its variables, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def runs_on_gpu(device: str, num_gpus: int = 1, cpu_workers: int = 1) -> bool:
    """Whether the processes compute on GPUs, and so are joined by NCCL instead of gloo.

    Args:
        device: `MODEL.DEVICE`; "cpu" never uses a GPU.
        num_gpus: 0 = compute on the CPU.
        cpu_workers: above 1 = compute on the CPU.
    """
    allowed = under_torchrun() or (num_gpus > 0 and cpu_workers == 1)
    return allowed and torch.device(device).type == "cuda" and torch.cuda.is_available()


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


def _join_torchrun(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    comm.create_local_process_group(int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size())))


def _cpu_worker(
    local_rank: int,
    processes: int,
    num_machines: int,
    machine_rank: int,
    address: str,
    main: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    set_num_threads(processes)
    try:
        dist.init_process_group(
            "gloo",
            init_method=address,
            world_size=num_machines * processes,
            rank=machine_rank * processes + local_rank,
            timeout=TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise LaunchError(f"--dist-url {address}: the processes cannot meet ({reason})") from error
    comm.create_local_process_group(processes)
    main(*arguments)
    dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
