"""How much is processed at a time on a device: the only place that decides on chunks.

On a CPU, chunks whose intermediate results stay in the processor's cache are faster, and bounded
memory matters more than the number of operators. An accelerator is fastest with everything at once:
every chunk costs the launch of its operators. Only what would take gigabytes is split there too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Memory for the intermediate results of one chunk.
CPU_BYTES = 256 * 2**20
ACCELERATOR_BYTES = 4 * 2**30
# Memory for masks at the size of the results, of which several copies exist. On a CPU small chunks
# are fastest, though they take more operators (`benchmarks/postprocessing.py --chunks`).
CPU_MASK_BYTES = 32 * 2**20
ACCELERATOR_MASK_BYTES = 512 * 2**20


def chunk_length(count: int, cpu_length: int, device: torch.device) -> int:
    """Number of items to process at a time: all of them, in chunks on a CPU.

    Args:
        count: number of items.
        cpu_length: length of a chunk on a CPU.
        device: of the items.
    """
    if torch.compiler.is_exporting():  # the number of chunks would depend on the size
        return count
    return max(1, min(count, cpu_length) if device.type == "cpu" else count)


def split(tensor: Tensor, length: int, dim: int) -> Sequence[Tensor]:
    """Split a tensor into chunks of a length of `chunk_length`; a single one is the tensor."""
    return [tensor] if length >= tensor.shape[dim] else tensor.split(length, dim=dim)


def working_bytes(device: torch.device, cpu_bytes: int = CPU_BYTES) -> int:
    """Memory for the intermediate results of one chunk.

    Args:
        device: of the computation.
        cpu_bytes: the result on a CPU.
    """
    return cpu_bytes if device.type == "cpu" else ACCELERATOR_BYTES


def mask_bytes(device: torch.device) -> int:
    """Memory for masks at the size of the results that are processed at a time.

    Args:
        device: of the computation.
    """
    return CPU_MASK_BYTES if device.type == "cpu" else ACCELERATOR_MASK_BYTES


def concatenate(chunks: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Concatenate chunks; a single one is not copied."""
    return chunks[0] if len(chunks) == 1 else torch.cat(list(chunks), dim=dim)
