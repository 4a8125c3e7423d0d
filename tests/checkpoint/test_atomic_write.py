"""Atomic writing: full disks, errors, kill -9."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from hipie.checkpoint import CheckpointError, read_state
from hipie.checkpoint.atomic_write import write_atomically
from hipie.errors import SYSTEM_REASONS


def text(content: str):
    return lambda name: Path(name).write_text(content)


def test_file_and_its_folder_are_created(tmp_path):
    path = tmp_path / "new" / "x.pth"
    write_atomically(path, text("one"))
    write_atomically(path, text("two"))
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["x.pth"]


def test_file_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        write_atomically(tmp_path / "x", text("one"))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_full_disk_keeps_the_previous_file(tmp_path, code):
    path = tmp_path / "x.pth"
    write_atomically(path, text("previous"))

    def fail(name: str) -> None:
        Path(name).write_text("half")
        raise OSError(code, os.strerror(code))

    with pytest.raises(CheckpointError) as caught:
        write_atomically(path, fail)
    assert str(path) in str(caught.value)
    assert SYSTEM_REASONS[code] in str(caught.value)
    assert "the previous file is unchanged" in str(caught.value)
    assert path.read_text() == "previous"
    assert os.listdir(tmp_path) == ["x.pth"]


def test_full_disk_at_flush_is_an_error(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"no space left on its disk.*no file is left behind"):
        write_atomically(tmp_path / "x.pth", text("one"))
    assert os.listdir(tmp_path) == []


def test_interrupt_keeps_the_previous_file(tmp_path):
    path = tmp_path / "x.pth"
    write_atomically(path, text("previous"))

    def stop(name: str) -> None:
        Path(name).write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, stop)
    assert path.read_text() == "previous"
    assert os.listdir(tmp_path) == ["x.pth"]


def test_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        write_atomically(tmp_path / "file" / "x.pth", text("one"))


def test_leftovers_of_ended_processes_are_removed(tmp_path):
    finished_process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    dead = tmp_path / f".x.pth.{int(finished_process.stdout)}.partial"
    alive = tmp_path / f".x.pth.{os.getppid()}.partial"
    other = tmp_path / f".y.pth.{int(finished_process.stdout)}.partial"
    for leftover in (dead, alive, other):
        leftover.write_text("half")
    write_atomically(tmp_path / "x.pth", text("one"))
    assert not dead.exists()
    assert alive.exists()
    assert other.exists()


# A file larger than the limit cannot be written: what a full disk does, to every writer alike.
LIMITED = """
import resource, signal, sys
import torch
from torch import nn
from hipie.checkpoint import Checkpointer, CheckpointError, save_weights
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = nn.Linear(400, 400)
folder = sys.argv[1]
with torch.no_grad():
    model.weight.fill_(1)
checkpointer = Checkpointer(model, folder)
checkpointer.save("first")
save_weights(model, folder + "/w.safetensors", half=False)
with torch.no_grad():
    model.weight.fill_(2)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for what in (lambda: checkpointer.save("second"), lambda: checkpointer.save("first"),
             lambda: save_weights(model, folder + "/w.safetensors", half=False)):
    try:
        what()
    except CheckpointError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_file_size_limit_keeps_the_previous_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 3, done.stdout + done.stderr
    assert "second.pth: it could not be written" in lines[0]
    assert all("the previous file is unchanged" in line for line in lines[1:])
    assert sorted(os.listdir(tmp_path)) == ["first.pth", "last_checkpoint", "w.safetensors"]
    assert (tmp_path / "last_checkpoint").read_text() == "first.pth"
    for name in ("first.pth", "w.safetensors"):
        assert read_state(tmp_path / name)["model"]["weight"].unique().tolist() == [1]


KILLED = """
import sys
import torch
from torch import nn
from hipie.checkpoint import Checkpointer
model = nn.Linear(700, 700)
checkpointer = Checkpointer(model, sys.argv[1])
for number in range(10_000):
    with torch.no_grad():
        model.weight.fill_(number)
    checkpointer.save(f"model_{number % 2}", iteration=number)
    print(number, flush=True)
"""


def killed_in_the_middle(folder: Path, wait: float) -> int:
    """Start a process that saves repeatedly, kill it, and return its last completed save."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(KILLED), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    return int(rest[-1]) if rest else 0


@pytest.mark.skipif(sys.platform == "win32", reason="has no kill -9")
@pytest.mark.parametrize("wait", [0.013, 0.041, 0.087])
def test_kill_9_keeps_a_complete_checkpoint(tmp_path, wait):
    finished = killed_in_the_middle(tmp_path, wait)
    last = (tmp_path / "last_checkpoint").read_text()
    state = read_state(tmp_path / last)
    assert state["iteration"] >= finished
    assert state["model"]["weight"].unique().tolist() == [state["iteration"]]
    for file in tmp_path.glob("*.pth"):
        assert torch.isfinite(read_state(file)["model"]["weight"]).all()


def test_planted_links_are_not_followed(tmp_path, monkeypatch):
    """Neither a link at the target nor one at a predicted temporary name redirects the writing."""
    path, victim = tmp_path / "x.pth", tmp_path / "victim"
    victim.write_text("mine")
    path.symlink_to(victim)
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)
    planted = tmp_path / f".x.pth.{os.getpid()}.{'0' * 16}.partial"
    planted.symlink_to(victim)
    with pytest.raises(CheckpointError):
        write_atomically(path, text("new"))
    assert victim.read_text() == "mine"
    monkeypatch.undo()
    write_atomically(path, text("new"))
    assert victim.read_text() == "mine"
    assert not path.is_symlink() and path.read_text() == "new"
