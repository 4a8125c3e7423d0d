"""Processes: how many, how they find each other, and how many threads they take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from hipie.engine import launch as launch_module
from hipie.engine.launch import launch, use_cores

ROOT = Path(__file__).parents[2]


@pytest.fixture
def threads():
    """Whatever a test sets, the next one has its threads back."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def note(folder: str, share: int) -> None:
    """What every worker does: meet the others, and write what it is."""
    rank, world = dist.get_rank(), dist.get_world_size()
    total = torch.tensor(float(rank + 1) * share)
    dist.all_reduce(total)
    Path(folder, str(rank)).write_text(f"{world} {total.item()} {torch.get_num_threads()}")


def test_one_process_runs_here(threads):
    seen = []
    launch(seen.append, ("here",))
    assert seen == ["here"]
    assert not dist.is_initialized()


def test_workers_on_the_cpu_meet(tmp_path):
    program = (
        "import sys; sys.path.insert(0, 'tests/engine')\n"
        "from test_launch import note\n"
        "from hipie.engine.launch import launch\n"
        f"if __name__ == '__main__':\n    launch(note, ({str(tmp_path)!r}, 10), cpu_workers=2)\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/engine'}"}
    environment.pop("OMP_NUM_THREADS", None)
    subprocess.run([sys.executable, script], cwd=ROOT, env=environment, check=True, timeout=120)
    each = max(1, len(os.sched_getaffinity(0)) // 2)
    for rank in "01":
        assert (tmp_path / rank).read_text() == f"2 30.0 {each}"


def test_torchrun_is_joined_and_left(tmp_path, monkeypatch):
    port = launch_module._free_port()
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for key, value in {"RANK": "0", "WORLD_SIZE": "1", **address}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    launch(note, (str(tmp_path), 7), num_gpus=4, cpu_workers=3)
    assert (tmp_path / "0").read_text().startswith("1 7.0")
    assert not dist.is_initialized()


def test_gpus_and_cpu_workers_exclude_each_other(monkeypatch):
    with pytest.raises(ValueError, match="--num-gpus and --cpu-workers"):
        launch(print, (), num_gpus=2, cpu_workers=2)


def test_cores_are_shared_out(threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert [use_cores(n) for n in (1, 2, 4, 9)] == [6, 3, 1, 1]


def test_cores_are_counted_where_affinity_is_unknown(threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert use_cores(2) == 2


def test_the_environment_decides_first(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert use_cores(1) == threads
