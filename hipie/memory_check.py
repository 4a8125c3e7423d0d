"""Check before inference that the images of a batch and their results fit the free memory.

Programs (`Segmenter`, evaluation) call it; models only describe what they would compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hipie.errors import InputError
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.structures import InferenceSize

# Upper bound of the bytes of a canvas pixel for each channel of the model: features, tokens and
# their attention at strides 4 to 64 (`benchmarks/hipie.py published` prints the peak).
BYTES_PER_CHANNEL = 5
# Bytes of a result pixel besides one float32 for each class.
BYTES_PER_OUTPUT_PIXEL = 128
BYTES_PER_SCORE = 4
MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")


class ImageTooLargeError(InputError):
    """A batch of images whose features and results would not fit the free memory."""


def check_memory(model: nn.Module, batched_inputs: Sequence[dict[str, Any]]) -> None:
    """Check that inference on a batch would fit the free memory.

    Nothing is checked for models that do not implement `SegmentationModel.inference_size`, and on
    systems that do not report their free memory.

    Args:
        model: the model, possibly wrapped in `DistributedDataParallel`.
        batched_inputs: Detectron2's list of dicts.

    Raises:
        ImageTooLargeError: with the image size that would fit.
    """
    model = getattr(model, "module", model)
    if not isinstance(model, SegmentationModel):
        return
    size = model.inference_size(batched_inputs)
    if size is not None:
        check_size(size, model.device)


@contextmanager
def checked_memory(model: nn.Module) -> Iterator[None]:
    """Call `check_memory` before the forward passes of a model inside the context.

    A batch that needs no more memory than one that has passed is not checked: the driver and the
    system are asked a few times in an evaluation, not once an image.
    """
    passed = 0

    def check(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal passed
        unwrapped = getattr(module, "module", module)
        if not isinstance(unwrapped, SegmentationModel):
            return
        size = unwrapped.inference_size(arguments[0])
        if size is not None and needed_bytes(size) > passed:
            check_size(size, unwrapped.device)
            passed = needed_bytes(size)

    handle = model.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


def check_size(size: InferenceSize, device: torch.device) -> None:
    """Check that an inference of a given size would fit the free memory of a device.

    Raises:
        ImageTooLargeError: with the image size that would fit.
    """
    free = free_bytes(device)
    if free is None:
        return
    needed = needed_bytes(size)
    if needed <= free:
        return
    images = f"{size.num_images} images of up to" if size.num_images > 1 else "an image of"
    resized = size.canvas_size != size.output_size
    resize = f" (resized to {_format_size(size.canvas_size)})" if resized else ""
    classes = f" and {size.num_classes} classes" if size.num_classes else ""
    raise ImageTooLargeError(
        f"{images} {_format_size(size.output_size)} pixels{resize}{classes} "
        f"would need about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
        f"{_describe_fitting_size(size, free)} would fit"
    )


def _describe_fitting_size(size: InferenceSize, free: int) -> str:
    """Name a size that fits: of the image, of the resize, or of both, whichever takes the memory.

    A smaller image is resized to the same canvas, so its size alone reduces the results' memory
    alone.
    """
    canvas, output = _canvas_bytes(size), _output_bytes(size)
    if size.canvas_size == size.output_size:
        return f"{_format_size(size.output_size, free / (canvas + output))} pixels"
    if canvas < free and output >= canvas:
        return f"{_format_size(size.output_size, (free - canvas) / output)} pixels"
    if output < free and canvas > output:
        smaller = _format_size(size.canvas_size, (free - output) / canvas)
        return f"a resize to {smaller} pixels (INPUT.MIN_SIZE_TEST)"
    share = free / (canvas + output)
    return (
        f"{_format_size(size.output_size, share)} pixels with a resize to "
        f"{_format_size(size.canvas_size, share)} (INPUT.MIN_SIZE_TEST)"
    )


def _format_size(size: tuple[int, int], share: float = 1.0) -> str:
    """`height x width` of a size with a share of its pixels."""
    height, width = (max(int(side * share**0.5), 1) for side in size)
    return f"{height} x {width}"


def needed_bytes(size: InferenceSize) -> int:
    """Upper bound of the memory of an inference in bytes."""
    return _canvas_bytes(size) + _output_bytes(size)


def _canvas_bytes(size: InferenceSize) -> int:
    height, width = size.canvas_size
    return height * width * size.num_images * size.channels * BYTES_PER_CHANNEL


def _output_bytes(size: InferenceSize) -> int:
    scores = BYTES_PER_SCORE * size.num_classes
    return size.output_pixels * (scores + BYTES_PER_OUTPUT_PIXEL)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device in bytes; None where the system does not report it.

    On CUDA this is what the driver calls free and what PyTorch's allocator has reserved without
    using it, as after a training.
    """
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    limits = [free for free in (_system_free_bytes(), _container_free_bytes()) if free is not None]
    return min(limits, default=None)


def _system_free_bytes() -> int | None:
    if not MEMINFO.is_file():
        return None
    for line in MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _container_free_bytes() -> int | None:
    """Limit of the container's control group minus its memory in use, without file caches."""
    limit, stat = CONTROL_GROUP / "memory.max", CONTROL_GROUP / "memory.stat"
    if not (limit.is_file() and stat.is_file()) or limit.read_text().strip() == "max":
        return None
    statistics = dict(line.split() for line in stat.read_text().splitlines())
    return max(int(limit.read_text()) - int(statistics.get("anon", 0)), 0)
