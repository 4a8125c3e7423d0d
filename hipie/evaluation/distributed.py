"""Collection of counts and arrays from all processes on the first one, without pickling them.

Every function is called by all processes, also by those that have evaluated nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.comm import _get_global_gloo_group
from numpy.typing import NDArray

# Integers of any size travel as limbs of 30 bits, whose sums over processes fit into int64.
LIMB_BITS = 30
LIMBS = 6
CHUNK_BYTES = 1 << 24


def gather_sum(counts: NDArray[Any], distributed: bool) -> NDArray[Any] | None:
    """Sum the int64 arrays of all processes; None on all but the first process."""
    if not _several(distributed):
        return counts
    # A copy: the first process receives the sum in place.
    total = torch.from_numpy(np.array(counts, dtype=np.int64))
    dist.reduce(total, dst=0, group=_get_global_gloo_group())
    return total.numpy() if comm.is_main_process() else None


def sum_integers(
    counts: Mapping[str, Sequence[int]], distributed: bool
) -> dict[str, list[int]] | None:
    """Sum named lists of integers over all processes; None on all but the first process.

    Processes may have different names; a name has the same number of integers wherever it exists.

    Args:
        counts: integers between -2^179 and 2^179.
        distributed: False = return those of this process.
    """
    if not _several(distributed):
        return {name: list(values) for name, values in counts.items()}
    layout: dict[str, int] = {}
    for lengths in comm.all_gather({name: len(values) for name, values in counts.items()}):
        layout.update(lengths)
    names = sorted(layout)
    rows = [_to_limbs(value) for name in names for value in counts.get(name) or [0] * layout[name]]
    total = gather_sum(np.array(rows, dtype=np.int64).reshape(-1, LIMBS), distributed)
    if total is None:
        return None
    sums = iter(total.tolist())
    return {name: [_from_limbs(next(sums)) for _ in range(layout[name])] for name in names}


def gather_arrays(arrays: Sequence[NDArray[Any]], distributed: bool) -> list[NDArray[Any]] | None:
    """Concatenate the arrays of all processes along their first axis, in the order of ranks.

    Args:
        arrays: on all processes as many, of the same types and of the same sizes beyond the first.
        distributed: False = return those of this process.

    Returns:
        One array for each of `arrays`; None on all but the first process.
    """
    if not _several(distributed):
        return list(arrays)
    arrays = [np.ascontiguousarray(array) for array in arrays]
    lengths = comm.all_gather([len(array) for array in arrays])
    if not comm.is_main_process():
        for array in arrays:
            _send(array)
        return None
    gathered = []
    for index, array in enumerate(arrays):
        whole = np.empty((sum(row[index] for row in lengths), *array.shape[1:]), array.dtype)
        whole[: len(array)] = array
        gathered.append(whole)
    starts = [len(array) for array in arrays]
    for rank in range(1, comm.get_world_size()):
        for index, whole in enumerate(gathered):
            end = starts[index] + lengths[rank][index]
            _receive(whole[starts[index] : end], rank)
            starts[index] = end
    return gathered


def gather_file(file: IO[bytes], write: Callable[[bytes], Any], distributed: bool) -> None:
    """Copy the files of all processes, in the order of ranks, to the first one, chunk by chunk.

    Args:
        file: readable and seekable; read from its beginning.
        write: called on the first process with every chunk.
        distributed: False = copy the file of this process only.
    """
    several = _several(distributed)
    length = file.seek(0, 2)
    file.seek(0)
    lengths = comm.all_gather(length) if several else [length]
    is_main = not several or comm.is_main_process()
    while chunk := file.read(CHUNK_BYTES):
        if is_main:
            write(chunk)
        else:
            _send(np.frombuffer(chunk, dtype=np.uint8))
    if not is_main:
        return
    for rank, remaining in enumerate(lengths[1:], 1):
        while remaining > 0:
            received = np.empty(min(remaining, CHUNK_BYTES), dtype=np.uint8)
            _receive(received, rank)
            write(received.tobytes())
            remaining -= len(received)


def _several(distributed: bool) -> bool:
    return distributed and comm.get_world_size() > 1


def _send(array: NDArray[Any]) -> None:
    if array.size:
        dist.send(_as_bytes(array.copy()), dst=0, group=_get_global_gloo_group())


def _receive(array: NDArray[Any], rank: int) -> None:
    """Fill a contiguous array with what the process `rank` sends."""
    if array.size:
        dist.recv(_as_bytes(array), src=rank, group=_get_global_gloo_group())


def _as_bytes(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array.reshape(-1).view(np.uint8))


def _to_limbs(value: int) -> list[int]:
    """Split an integer into limbs, lowest first; all but the last are 0 to 2^30 - 1."""
    limbs = []
    for _ in range(LIMBS - 1):
        limbs.append(value & ((1 << LIMB_BITS) - 1))
        value >>= LIMB_BITS
    return [*limbs, value]


def _from_limbs(limbs: Sequence[int]) -> int:
    return sum(limb << (LIMB_BITS * index) for index, limb in enumerate(limbs))
