"""Images that do not fit are refused with the size that would."""

from __future__ import annotations

import pytest
import torch

from hipie import memory_check as memory
from hipie.memory_check import ImageTooLargeError, check_memory, free_bytes

CPU = torch.device("cpu")
ASKED = {"output_pixels": 1000 * 2000, "width": 256, "classes": 133, "device": CPU}


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system of 2 GB without a container."""
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 9000000 kB\nMemAvailable: 2000000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", info)
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    return tmp_path


def test_what_fits_passes(system) -> None:
    check_memory((500, 1000), 1, **{**ASKED, "output_pixels": 500 * 1000})


def test_what_does_not_fit_names_the_size_that_would(system) -> None:
    with pytest.raises(ImageTooLargeError, match=r"2\.0 GB are free; (\d+) x (\d+)") as caught:
        check_memory((1000, 2000), 1, **ASKED)
    height, width = (
        int(n) for n in str(caught.value).split("; ")[1].split(" pixels")[0].split(" x ")
    )
    assert width == pytest.approx(2 * height, abs=2)
    check_memory((height, width), 1, **{**ASKED, "output_pixels": height * width})


def test_a_container_may_leave_less(system) -> None:
    assert free_bytes(CPU) == 2000000 * 1024
    (system / "memory.max").write_text("1000000000\n")
    (system / "memory.stat").write_text("anon 400000000\nfile 9\n")
    assert free_bytes(CPU) == 600000000
    (system / "memory.max").write_text("max\n")
    assert free_bytes(CPU) == 2000000 * 1024


def test_a_system_that_does_not_say_refuses_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    assert free_bytes(CPU) is None
    check_memory((10**6, 10**6), 9, **ASKED)
