"""Whether an image fits into memory, told before an hour's work is lost to the kernel."""

from __future__ import annotations

from pathlib import Path

import torch

# What a pixel of the canvas takes at most, in bytes a channel of the model's width: features,
# tokens and their attention at strides 4 to 64 (`benchmarks/hipie.py published` prints the peak).
BYTES_PER_CHANNEL = 5
# What a pixel of the result takes besides one number a class.
BYTES_PER_RESULT = 128
MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")


class ImageTooLargeError(ValueError):
    """An image whose results would not fit into the memory that is free."""


def check_memory(
    canvas: tuple[int, int],
    images: int,
    *,
    output_pixels: int,
    width: int,
    classes: int,
    device: torch.device,
) -> None:
    """Refuse what would certainly not fit.

    Args:
        canvas: (height, width) of the padded images.
        images: how many are looked at together.
        output_pixels: of all their results.
        width: channels of the model.
        classes: of the largest vocabulary; each has a score map.
        device: where the model is.

    Raises:
        PictureTooLargeError: with the size that would fit.
    """
    free = free_bytes(device)
    if free is None:
        return
    height, breadth = canvas
    needed = height * breadth * images * width * BYTES_PER_CHANNEL
    needed += output_pixels * (4 * classes + BYTES_PER_RESULT)
    if needed <= free:
        return
    shrink = (free / needed) ** 0.5
    fits = f"{max(int(height * shrink), 1)} x {max(int(breadth * shrink), 1)}"
    together = f"{images} images" if images > 1 else "an image"
    raise ImageTooLargeError(
        f"{together} of {height} x {breadth} pixels and {classes} classes would need about "
        f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; {fits} pixels would fit"
    )


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free where the model is; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [bytes_ for bytes_ in (_system_bytes(), _group_bytes()) if bytes_ is not None]
    return min(found, default=None)


def _system_bytes() -> int | None:
    if not MEMINFO.is_file():
        return None
    for line in MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group_bytes() -> int | None:
    """What the control group of a container leaves; its caches can be given back."""
    limit, used = CONTROL_GROUP / "memory.max", CONTROL_GROUP / "memory.stat"
    if not (limit.is_file() and used.is_file()) or limit.read_text().strip() == "max":
        return None
    held = dict(line.split() for line in used.read_text().splitlines())
    return max(int(limit.read_text()) - int(held.get("anon", 0)), 0)
