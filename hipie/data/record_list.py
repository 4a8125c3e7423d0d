"""Records of a data set, read and checked once a machine and shared by its processes.

The process of local rank 0 reads the data set and writes the records, each pickled, into one
temporary file; all processes of the machine, and their loaders' workers, map that file into memory.
The pages of a mapped file exist once a machine, however many processes map it. The file has no name
once it is mapped by all, so that nothing is left behind by a process that is killed.

As in Detectron2's `DatasetFromList`, a record is unpickled each time it is taken. The file is
readable by its owner only, and is read by no other program.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any, BinaryIO, overload

import numpy as np
import torch
import torch.distributed as dist
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from numpy.typing import NDArray
from torch import Tensor

from hipie.data.records import load_records
from hipie.errors import InputError

Record = dict[str, Any]
INDEXED_KEYS = ("image_id", "file_name")
"""Keys by which `RecordList.find` searches."""


class RecordList(Sequence[Record]):
    """Records in one buffer, which may be a mapped file; also an argument of PyTorch's loader.

    Args:
        buffer: uint8 [bytes], as written by `write_records`.
        count: number of records.
    """

    def __init__(self, buffer: Tensor, count: int) -> None:
        self._buffer = buffer
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Return a new copy of a record."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        position = index + self._count if index < 0 else index
        if not 0 <= position < self._count:
            raise IndexError(f"record {index} of {self._count}")
        ends = self._integers(0, self._count + 1)
        payload = self._buffer[int(ends[position]) : int(ends[position + 1])].numpy()
        # Written by this process.
        record: Record = pickle.loads(payload.data)  # nosec B301
        return record

    @property
    def is_wide(self) -> NDArray[np.bool_]:
        """Whether each record's `width` is above its `height`: bool [N]."""
        integers = self._integers((2 * len(INDEXED_KEYS) + 1) * self._count + 1, self._count)
        return integers > 0

    def find_all(self, key: str, value: Any) -> list[int]:
        """Return the positions of the records whose `key`, of `INDEXED_KEYS`, has a value."""
        return [position for position, _ in self.select(key, value)]

    def select(self, key: str, value: Any) -> list[tuple[int, Record]]:
        """Return position and copy of every record whose `key`, of `INDEXED_KEYS`, has a value."""
        start = self._count + 1 + 2 * self._count * INDEXED_KEYS.index(key)
        hashes = self._integers(start, self._count)
        order = self._integers(start + self._count, self._count)
        value_hash = _hash(value)
        first, last = (int(np.searchsorted(hashes, value_hash, side)) for side in ("left", "right"))
        candidates = [(position, self[position]) for position in order[first:last].tolist()]
        return [entry for entry in candidates if entry[1].get(key) == value]

    def find(self, key: str, value: Any) -> tuple[int, Record]:
        """Return position and copy of the last record whose `key` has a value.

        Raises:
            KeyError: if there is none.
        """
        entries = self.select(key, value)
        if not entries:
            raise KeyError(value)
        return entries[-1]

    def of_image(self, image_id: Any) -> Record:
        """Return the last record of an image; KeyError if there is none."""
        return self.find("image_id", image_id)[1]

    def of_file(self, file_name: str) -> Record:
        """Return the last record of an image's file; KeyError if there is none."""
        return self.find("file_name", file_name)[1]

    @property
    def nbytes(self) -> int:
        """Size of the records and their index in bytes."""
        return self._buffer.numel()

    def _integers(self, start: int, count: int) -> NDArray[np.int64]:
        """Return integers of the header, as a view of the buffer."""
        integers: NDArray[np.int64] = (
            self._buffer[8 * start : 8 * (start + count)].numpy().view(np.int64)
        )
        return integers


def write_records(records: Iterable[Record], file: BinaryIO) -> int:
    """Write records and their index in the form that `RecordList` reads, and return their number.

    Layout: int64 [N + 1] ends of the pickles; for each of `INDEXED_KEYS` int64 [N] sorted hashes
    and int64 [N] their records; int64 [N] whether a record is wide; the pickles.
    """
    records = list(records) if not isinstance(records, Sequence) else records
    count = len(records)
    ends = np.empty(count + 1, dtype=np.int64)
    hashes = np.empty((len(INDEXED_KEYS), count), dtype=np.int64)
    is_wide = np.empty(count, dtype=np.int64)
    start = 8 * (count + 1 + 2 * count * len(INDEXED_KEYS) + count)
    ends[0] = start
    file.seek(start)
    for position, record in enumerate(records):
        for row, key in enumerate(INDEXED_KEYS):
            hashes[row, position] = _hash(record.get(key))
        is_wide[position] = record.get("width", 0) > record.get("height", 0)
        payload = pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL)
        file.write(payload)
        ends[position + 1] = ends[position] + len(payload)
    file.seek(0)
    file.write(ends.tobytes())
    for row in hashes:
        order = np.argsort(row, kind="stable").astype(np.int64)
        file.write(row[order].tobytes())
        file.write(order.tobytes())
    file.write(is_wide.tobytes())
    file.flush()
    return count


def share_records(
    load: Callable[[], Iterable[Record]], *, distributed: bool = True, dataset_name: str = ""
) -> RecordList:
    """Run `load` in one process a machine, and return its records in all of them.

    All processes call it. An error of `load` is raised in the process where it happened, and named
    in the others.

    Args:
        load: returns the records; called on local rank 0 only.
        distributed: False = `load` is called by this process, and nobody waits.
        dataset_name: its metadata, which a reader may complete, are the same everywhere afterwards.

    Raises:
        InputError: in the other processes, if `load` fails.
    """
    if not distributed or not _several_processes():
        path, count = _write_file(load)
        try:
            return _map_file(path, count)
        finally:
            os.unlink(path)
    path, count, failure = "", 0, "the process that reads it was stopped"
    try:
        if comm.get_local_rank() == 0:
            path, count = _write_file(load)
        failure = ""
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        raise
    finally:
        metadata = _metadata(dataset_name) if path else {}
        entries = comm.all_gather((path, count, failure, metadata))
    own_path = path
    failures = [failure for _, _, failure, _ in entries if failure]
    path, count, _, metadata = entries[comm.get_rank() - comm.get_local_rank()]
    try:
        if failures:
            name = f"the data set {dataset_name}" if dataset_name else "a data set"
            raise InputError(f"{name} cannot be read by another process ({failures[0]})")
        records = _map_file(path, count)
        comm.synchronize()
    finally:
        if own_path:
            os.unlink(own_path)
    _complete_metadata(dataset_name, metadata)
    return records


def read_records(
    dataset_name: str,
    convert: Callable[[list[Record]], Iterable[Record]] | None = None,
    *,
    distributed: bool = True,
) -> RecordList:
    """Read a registered data set once a machine, in the checked form of `hipie.data.records`.

    Args:
        dataset_name: a name in Detectron2's catalogs.
        convert: selects or changes the records, in the process that reads them.
        distributed: see `share_records`.

    Raises:
        HipieError, OSError, ValueError: of the reader, naming what cannot be read.
    """

    def load() -> Iterable[Record]:
        records = load_records(dataset_name)
        return convert(records) if convert else records

    return share_records(load, distributed=distributed, dataset_name=dataset_name)


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _write_file(load: Callable[[], Iterable[Record]]) -> tuple[str, int]:
    descriptor, path = tempfile.mkstemp(prefix="records-")
    try:
        with open(descriptor, "wb") as file:
            return path, write_records(load(), file)
    except BaseException:
        os.unlink(path)
        raise


def _map_file(path: str, count: int) -> RecordList:
    # Pages are shared until they are written to, which nobody does. PyTorch can send this tensor to
    # workers that are spawned, but not one of `torch.from_file`.
    return RecordList(torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c")), count)


def _metadata(dataset_name: str) -> dict[str, Any]:
    return dict(MetadataCatalog.get(dataset_name).as_dict()) if dataset_name else {}


def _complete_metadata(dataset_name: str, metadata: dict[str, Any]) -> None:
    """Set the attributes that the reader has set in another process."""
    for key, value in metadata.items():
        entry = MetadataCatalog.get(dataset_name)
        if key not in entry.as_dict():
            setattr(entry, key, value)


def _hash(value: Any) -> int:
    """Return a hash, 0 to 2^63 - 1, that is the same in all processes."""
    if isinstance(value, Integral):
        value = int(value)
    digest = hashlib.blake2b(repr(value).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
