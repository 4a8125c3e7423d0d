"""Launch a program in one process or several, on CPUs (gloo) or GPUs (NCCL), or under torchrun."""

from __future__ import annotations

import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import resource_tracker
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from hipie.engine.failures import GRACE_SECONDS, FailureMonitor
from hipie.engine.signals import ForwardSignals, exit_on_signals
from hipie.errors import InputError, cause_of

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
    reporting: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Run `main(*arguments)` in one process or in several, on one machine or several.

    An exception in one process ends all of them within seconds, see `FailureMonitor`. The process
    group is destroyed in any case.

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
        reporting: returns a context in which every process runs, for example one that turns
            exceptions into messages; can be pickled.

    Raises:
        LaunchError: naming the argument that cannot be used.
        torch.multiprocessing.ProcessExitedException: if a process that was started here has failed.
    """
    if under_torchrun():
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        group = _Group("env://", local_size=local_size, on_gpu=runs_on_gpu(device))
        _run_in_group(int(os.environ.get("LOCAL_RANK", 0)), group, main, arguments, reporting)
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
        with reporting(), exit_on_signals():
            main(*arguments)
        return
    if dist_url == AUTO:
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    group = _Group(dist_url, processes, on_gpu, num_machines, machine_rank)
    _start_processes(processes, (group, main, arguments, reporting))


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


@dataclass(frozen=True)
class _Group:
    """Process group that a process joins.

    Attributes:
        address: `tcp://HOST:PORT` of machine 0; `env://` takes ranks and address from torchrun.
        local_size: processes of this machine.
        on_gpu: whether they are joined by NCCL.
        num_machines: number of machines; 1 with `env://`.
        machine_rank: index of this machine.
    """

    address: str
    local_size: int
    on_gpu: bool
    num_machines: int = 1
    machine_rank: int = 0

    def join(self, local_rank: int) -> FailureMonitor:
        """Initialise the process group.

        Raises:
            LaunchError: if the processes cannot meet.
        """
        rank, world_size = -1, -1
        if self.address != "env://":
            rank = self.machine_rank * self.local_size + local_rank
            world_size = self.num_machines * self.local_size
        try:
            store, rank, world_size = next(
                rendezvous(self.address, rank, world_size, timeout=TIMEOUT)
            )
            store.set_timeout(TIMEOUT)
            if self.address == "env://":
                store = fresh_store(store, rank, world_size)
            dist.init_process_group(
                "nccl" if self.on_gpu else "gloo",
                store=store,
                rank=rank,
                world_size=world_size,
                timeout=TIMEOUT,
            )
        except (RuntimeError, ValueError) as error:
            place = "" if self.address == "env://" else f"--dist-url {self.address}: "
            raise LaunchError(f"{place}the processes cannot meet ({cause_of(error)})") from error
        comm.create_local_process_group(self.local_size)
        return FailureMonitor(store, rank, world_size, local_rank)


def fresh_store(store: Store, rank: int, world_size: int) -> Store:
    """Return a part of a store that no earlier attempt of the same ranks has used.

    The agents of torchrun keep their store when they restart processes, with the addresses of the
    dead ones, and their counts of restarts may differ. So rank 0 draws a name, and tells it to
    every process that asks under a name of its own.

    Args:
        store: in which the processes meet.
        rank: of this process.
        world_size: number of processes.

    Raises:
        RuntimeError: if a process does not come within `TIMEOUT`.
    """
    name = uuid.uuid4().hex
    if rank != 0:
        store.set(f"hipie_ask/{rank}", name)
        group: str = store.get(f"hipie_tell/{name}").decode()
        store.add(f"hipie_told/{group}", 1)
        return PrefixStore(group, store)
    end = time.monotonic() + TIMEOUT.total_seconds()
    while store.add(f"hipie_told/{name}", 0) < world_size - 1:
        if time.monotonic() > end:
            raise RuntimeError("not all processes have come")
        for other in range(1, world_size):
            if store.check([f"hipie_ask/{other}"]):
                asking = store.get(f"hipie_ask/{other}").decode()
                store.set(f"hipie_tell/{asking}", name)
        time.sleep(0.05)
    return PrefixStore(name, store)


def _run_in_group(
    local_rank: int,
    group: _Group,
    main: Callable[..., None],
    arguments: tuple[Any, ...],
    reporting: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Run one process of a group."""
    if group.on_gpu:
        torch.cuda.set_device(local_rank)
    else:
        set_num_threads(group.local_size)
    with reporting(), exit_on_signals():
        try:
            with group.join(local_rank):
                main(*arguments)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def _start_processes(number: int, arguments: tuple[Any, ...]) -> None:
    """Start processes of this machine, and wait for them.

    They get a signal that would end this process, save a checkpoint, and exit.

    Raises:
        SystemExit: after a signal, with status 128 + its number.
        torch.multiprocessing.ProcessExitedException: if one has failed; all others have ended.
    """
    _start_resource_tracker()
    with _import_warnings_ignored():
        context = mp.start_processes(
            _run_in_group, arguments, nprocs=number, join=False, start_method="spawn"
        )
    with ForwardSignals(context.pids()) as signals:
        try:
            while not context.join(grace_period=2 * GRACE_SECONDS):
                continue
        except mp.ProcessExitedException as error:
            # Ended by the signal, before or after the training handled it.
            if signals.received is None or 0 <= error.exit_code < 128:
                raise
        if signals.received is not None:
            raise SystemExit(128 + signals.received)


def _start_resource_tracker() -> None:
    """Start multiprocessing's tracker so that a SIGHUP to the group does not end it.

    It ignores SIGINT and SIGTERM itself. Another one does not know the semaphores of the first.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _import_warnings_ignored() -> Iterator[None]:
    """Let processes that are started in the context ignore what PyTorch warns of Detectron2's code.

    They import it before `reporting` keeps warnings off the screen.
    """
    before = os.environ.get("PYTHONWARNINGS")
    ignored = "ignore::FutureWarning:torch.jit._script"
    os.environ["PYTHONWARNINGS"] = f"{before},{ignored}" if before else ignored
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
