"""Freed memory stays with the process where the C library supports it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hipie.engine import malloc

ROOT = Path(__file__).parents[2]
MEASURE = """
import ctypes
from hipie.engine.malloc import keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

if {keep}:
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
size = 64 * 2**20
before = resident()
place = libc.malloc(size)
ctypes.memset(place, 1, size)
libc.free(place)
print((resident() - before) / size)
"""


class Library:
    """C library that records calls of `mallopt` and returns a given status."""

    def __init__(self, status: int) -> None:
        self.calls: list[tuple[int, int]] = []
        self._status = status

    def mallopt(self, option: int, value: int) -> int:
        self.calls.append((option, value))
        return self._status


def test_glibc_options_are_set(monkeypatch):
    library = Library(1)
    monkeypatch.setattr(malloc.sys, "platform", "linux")
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: library)
    assert malloc.keep_freed_memory() is True
    # M_TRIM_THRESHOLD is -1, M_MMAP_MAX -4 in glibc's malloc.h.
    assert library.calls == [(-1, 2**31 - 1), (-4, 0)]


def test_failure_of_mallopt_is_reported(monkeypatch):
    monkeypatch.setattr(malloc.sys, "platform", "linux")
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: Library(0))
    assert malloc.keep_freed_memory() is False


def test_other_systems_are_unchanged(monkeypatch):
    monkeypatch.setattr(malloc.sys, "platform", "darwin")
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: pytest.fail("a library was loaded"))
    assert malloc.keep_freed_memory() is False


def test_library_without_mallopt_is_unchanged(monkeypatch):
    monkeypatch.setattr(malloc.sys, "platform", "linux")
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: object())
    assert malloc.keep_freed_memory() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's switch")
def test_freed_memory_stays_resident():
    shares = []
    for keep in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE.format(keep=keep)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if keep and "AssertionError" in done.stderr:
            pytest.skip("this C library has no mallopt")
        assert done.returncode == 0, done.stderr
        shares.append(float(done.stdout))
    assert shares[0] < 0.1
    assert shares[1] > 0.9
