"""Memory check: batches that do not fit are rejected with the image size that would."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hipie import memory_check
from hipie.memory_check import (
    ImageTooLargeError,
    check_memory,
    check_size,
    checked_memory,
    free_bytes,
)
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.inputs import batch_inference_size
from hipie.structures import InferenceSize

CPU = torch.device("cpu")
LARGE = InferenceSize((1000, 2000), 1, 1000 * 2000, 256, 133, (1000, 2000))


class Model(SegmentationModel):
    """Has one weight and reports 256 channels and 133 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def inference_size(self, batched_inputs: Sequence[dict[str, Any]]) -> InferenceSize:
        return batch_inference_size(batched_inputs, channels=256, num_classes=133)

    def inference(self, batched_inputs: list[dict[str, Any]], image_features: Any = None) -> list:
        return [{} for _ in batched_inputs]


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with 2 GB of free memory, not in a container."""
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 9000000 kB\nMemAvailable: 2000000 kB\n")
    monkeypatch.setattr(memory_check, "MEMINFO", info)
    monkeypatch.setattr(memory_check, "CONTROL_GROUP", tmp_path)
    return tmp_path


def test_fitting_size_passes(system: Path) -> None:
    check_size(replace(LARGE, canvas_size=(500, 1000), output_pixels=500 * 1000), CPU)


def test_error_contains_a_size_that_fits(system: Path) -> None:
    with pytest.raises(ImageTooLargeError, match=r"2\.0 GB are free; (\d+) x (\d+)") as caught:
        check_size(LARGE, CPU)
    height, width = (
        int(n) for n in str(caught.value).split("; ")[1].split(" pixels")[0].split(" x ")
    )
    assert width == pytest.approx(2 * height, abs=2)
    check_size(replace(LARGE, canvas_size=(height, width), output_pixels=height * width), CPU)


@pytest.mark.parametrize(
    ("canvas", "output", "num_images"),
    [
        ((128, 179), (5000, 7000), 1),
        ((128, 179), (4000, 7000), 3),
        ((1200, 2000), (5, 8), 1),
        ((1600, 2400), (400, 600), 2),
        ((1600, 2400), (3200, 4800), 1),
        ((3000, 5000), (2500, 4000), 1),
        ((900, 1400), (2700, 4200), 2),
    ],
)
def test_error_names_the_image_and_the_resize_and_sizes_that_fit(
    system: Path, canvas: tuple[int, int], output: tuple[int, int], num_images: int
) -> None:
    """The size that would fit is that of the image, the resize, or both; together they fit."""
    pixels = num_images * output[0] * output[1]
    size = InferenceSize(canvas, num_images, pixels, 256, 200, output)
    with pytest.raises(ImageTooLargeError) as caught:
        check_size(size, CPU)
    fault, advice = str(caught.value).split("; ")
    assert f"{output[0]} x {output[1]} pixels (resized to {canvas[0]} x {canvas[1]})" in fault
    fitting = {"output": output, "canvas": canvas}
    for pattern, name in ((r"^(\d+) x (\d+)", "output"), (r"resize to (\d+) x (\d+)", "canvas")):
        if match := re.search(pattern, advice):
            fitting[name] = (int(match[1]), int(match[2]))
    assert "200 classes" in fault
    assert fitting != {"output": output, "canvas": canvas}
    for name, original in (("output", output), ("canvas", canvas)):
        assert all(n <= o for n, o in zip(fitting[name], original, strict=True))
    height, width = fitting["output"]
    smaller = replace(size, canvas_size=fitting["canvas"], output_size=(height, width))
    check_size(replace(smaller, output_pixels=num_images * height * width), CPU)


def test_container_limit_is_respected(system: Path) -> None:
    assert free_bytes(CPU) == 2000000 * 1024
    (system / "memory.max").write_text("1000000000\n")
    (system / "memory.stat").write_text("anon 400000000\nfile 9\n")
    assert free_bytes(CPU) == 600000000
    (system / "memory.max").write_text("max\n")
    assert free_bytes(CPU) == 2000000 * 1024


def test_unknown_free_memory_rejects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_check, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory_check, "CONTROL_GROUP", tmp_path)
    assert free_bytes(CPU) is None
    check_size(replace(LARGE, canvas_size=(10**6, 10**6), num_images=9), CPU)


def test_sizes_of_a_batch() -> None:
    images = [torch.zeros(3, 40, 60), torch.zeros(3, 50, 30)]
    inputs = [{"image": images[0], "height": 80, "width": 120}, {"image": images[1]}]
    size = batch_inference_size(inputs, channels=8, num_classes=3)
    assert size == InferenceSize((50, 60), 2, 80 * 120 + 50 * 30, 8, 3, (80, 120))


def test_models_are_checked_in_the_context_only(system: Path) -> None:
    model = Model().eval()
    inputs = [{"image": torch.zeros(3, 8, 8), "height": 10**4, "width": 10**4}]
    assert model(inputs) == [{}]
    with (
        checked_memory(model),
        pytest.raises(
            ImageTooLargeError, match=r"10000 x 10000 pixels \(resized to 8 x 8\) and 133"
        ),
    ):
        model(inputs)
    assert model(inputs) == [{}]
    check_memory(nn.Linear(2, 2), inputs)
    check_memory(model, [{"image": torch.zeros(3, 8, 8)}])


def test_reserve_of_the_allocator_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """After training the driver calls little free, and most of the rest is reserved but unused."""
    device = torch.device("cuda", 0)
    for name, value in (("mem_get_info", (10**9, 9 * 10**9)), ("memory_reserved", 6 * 10**9)):
        monkeypatch.setattr(torch.cuda, name, lambda asked, value=value: asked == device and value)
    used = 10**9
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda asked: used)
    assert free_bytes(device) == 6 * 10**9
    fitting = replace(LARGE, canvas_size=(1000, 2000))
    check_size(fitting, device)
    used = 6 * 10**9
    with pytest.raises(ImageTooLargeError, match=r"1\.0 GB are free"):
        check_size(fitting, device)


def test_system_is_asked_for_larger_batches_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: asked.append(1) or 10**8)
    model = Model().eval()
    image = torch.zeros(3, 8, 8)

    def run(height: int) -> None:
        model([{"image": image, "height": height, "width": 100}])

    with checked_memory(model):
        for height in (50, 50, 20, 80, 60, 80):
            run(height)
        assert len(asked) == 2
        with pytest.raises(ImageTooLargeError):
            run(10**5)
        with pytest.raises(ImageTooLargeError):
            run(10**4)
