"""Number of processes, their process group, and their threads."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from hipie.engine import launch as launch_module
from hipie.engine.launch import LaunchError, launch, set_num_threads

ROOT = Path(__file__).parents[2]


@pytest.fixture
def threads():
    """Restore the number of threads after a test."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def write_group_size(folder: str, share: int) -> None:
    """Sum over the process group, and write its size, the sum and the threads to a file."""
    rank, world = dist.get_rank(), dist.get_world_size()
    total = torch.tensor(float(rank + 1) * share)
    dist.all_reduce(total)
    Path(folder, str(rank)).write_text(f"{world} {total.item()} {torch.get_num_threads()}")


def test_one_process_runs_in_this_process(threads):
    calls = []
    launch(calls.append, ("here",))
    assert calls == ["here"]
    assert not dist.is_initialized()


def test_cpu_workers_form_a_process_group(tmp_path):
    program = (
        "import sys; sys.path.insert(0, 'tests/engine')\n"
        "from test_launch import write_group_size\n"
        "from hipie.engine.launch import launch\n"
        "if __name__ == '__main__':\n"
        f"    launch(write_group_size, ({str(tmp_path)!r}, 10), cpu_workers=2)\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/engine'}"}
    environment.pop("OMP_NUM_THREADS", None)
    subprocess.run([sys.executable, script], cwd=ROOT, env=environment, check=True, timeout=120)
    each = max(1, len(os.sched_getaffinity(0)) // 2)
    for rank in "01":
        assert (tmp_path / rank).read_text() == f"2 30.0 {each}"


def test_torchrun_process_group_is_joined_and_destroyed(tmp_path, monkeypatch):
    port = launch_module._free_port()
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for key, value in {"RANK": "0", "WORLD_SIZE": "1", **address}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    launch(write_group_size, (str(tmp_path), 7), num_gpus=4, cpu_workers=3)
    assert (tmp_path / "0").read_text().startswith("1 7.0")
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("device", "options", "backend"),
    [
        ("cuda", {}, "nccl"),
        ("cuda", {"num_gpus": 0, "cpu_workers": 3}, "nccl"),
        ("cpu", {"num_gpus": 2}, "gloo"),
    ],
)
def test_backend_under_torchrun_is_that_of_the_device(monkeypatch, device, options, backend):
    """Under torchrun the counts of the command line are ignored; a CPU model never uses NCCL."""
    joined = []
    for key, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(
        launch_module, "rendezvous", lambda *_, **__: iter([(dist.HashStore(), 0, 1)])
    )
    monkeypatch.setattr(dist, "init_process_group", lambda name, **_: joined.append(name))
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(launch_module.comm, "create_local_process_group", lambda _: None)
    launch(print, (), device=device, **options)
    assert joined == [backend]


MACHINES = pytest.mark.parametrize(
    ("options", "processes", "on_gpu"),
    [
        ({"num_gpus": 2, "num_machines": 2}, 2, True),
        ({"num_machines": 2}, 1, True),
        ({"num_machines": 2, "device": "cpu"}, 1, False),
        ({"num_machines": 2, "num_gpus": 0}, 1, False),
        ({"num_machines": 2, "cpu_workers": 3}, 3, False),
    ],
)


def test_restarted_processes_meet_in_a_fresh_part_of_the_store():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    parts: list[list[dist.Store]] = []
    for attempt in range(2):  # the second one finds the keys of the first
        with ThreadPoolExecutor(3) as pool:
            starts = [
                pool.submit(launch_module.fresh_store, store.clone(), rank, 3)
                for rank in ((2, 1, 0) if attempt else (0, 1, 2))
            ]
            parts.append([start.result(20) for start in starts])
        parts[-1][0].set("address", str(attempt))
    for attempt, of_ranks in enumerate(parts):
        assert [part.get("address").decode() for part in of_ranks] == [str(attempt)] * 3


@MACHINES
def test_machines_rank_and_address_reach_the_processes(monkeypatch, options, processes, on_gpu):
    started = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(launch_module, "_start_processes", lambda *given: started.append(given))
    address = "tcp://10.0.0.1:29500"
    launch(print, (), machine_rank=1, dist_url=address, **options)
    ((number, (group, *_)),) = started
    assert number == processes
    assert group == launch_module._Group(address, processes, on_gpu, 2, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_gpus": 2, "device": "cpu"}, "--num-gpus is 2, but MODEL.DEVICE is cpu"),
        ({"num_gpus": 3}, "--num-gpus is 3, and this machine has 2"),
        ({"num_machines": 2}, "--num-machines needs --dist-url"),
        ({"num_machines": 2, "machine_rank": 2}, "--machine-rank is 2; .* between 0 and 1"),
    ],
)
def test_impossible_processes_are_an_error(monkeypatch, options, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LaunchError, match=message):
        launch(pytest.fail, ("launched",), **options)


def test_several_gpus_without_cuda_are_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LaunchError, match="there is no CUDA device; --cpu-workers"):
        launch(pytest.fail, ("launched",), num_gpus=2)


def test_several_gpus_and_several_cpu_workers_are_an_error(monkeypatch):
    with pytest.raises(ValueError, match="--num-gpus and --cpu-workers"):
        launch(print, (), num_gpus=2, cpu_workers=2)


def test_cores_are_divided_among_processes(threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert [set_num_threads(n) for n in (1, 2, 4, 9)] == [6, 3, 1, 1]


def test_all_cores_count_without_affinity(threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert set_num_threads(2) == 2


def test_omp_num_threads_takes_precedence(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert set_num_threads(1) == threads


@pytest.mark.parametrize("before", [None, "error::DeprecationWarning"])
def test_warnings_of_imports_are_ignored_in_started_processes_alone(monkeypatch, before) -> None:
    if before:
        monkeypatch.setenv("PYTHONWARNINGS", before)
    else:
        monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    code = "import warnings; warnings.warn_explicit('', FutureWarning, 'f', 1, 'torch.jit._script')"
    printed = []

    def start(*_, **__):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        printed.append(done.stderr)
        raise InterruptedError

    monkeypatch.setattr(launch_module.mp, "start_processes", start)
    with pytest.raises(InterruptedError):
        launch_module._start_processes(2, ())
    assert printed == [b""] and os.environ.get("PYTHONWARNINGS") == before


RESOURCE_TRACKER = """
import os, signal, time
from multiprocessing import resource_tracker
from hipie.engine.launch import _start_resource_tracker

_start_resource_tracker()
tracker = resource_tracker._resource_tracker
os.kill(tracker._pid, signal.SIGHUP)
time.sleep(0.5)
assert os.waitpid(tracker._pid, os.WNOHANG) == (0, 0)
"""


def test_sighup_does_not_end_the_tracker_of_semaphores() -> None:
    subprocess.run([sys.executable, "-c", RESOURCE_TRACKER], cwd=ROOT, check=True, timeout=120)
