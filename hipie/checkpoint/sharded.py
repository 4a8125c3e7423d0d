"""Checkpoints of sharded models: a folder `NAME.dcp` in the format of torch.distributed.checkpoint.

Every process writes its shares of the tensors. `state.pth` has everything else, with the name of a
tensor in each tensor's place. A folder can be read with any number of processes, also with one, and
like all files of weights without running code in it: `torch.distributed.checkpoint` stores its
table of tensors as a pickle, of which only the classes below are built.
"""

from __future__ import annotations

import io
import math
import os
import pathlib
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.safe_pickle import SafeUnpickler, load_safely
from hipie.checkpoint.torch_file import check_torch_zip, read_torch_legacy, read_torch_zip
from hipie.errors import cause_of, printable
from hipie.pickle_scan import UnsafePickleError

SUFFIX = ".dcp"
TABLE, STATE = ".metadata", "state.pth"
# Key of a dict that stands for a tensor in `state.pth`; its value is the tensor's name.
_REFERENCE = "__tensor__"

# Classes of the table of tensors, by the names in its pickle, and its values that are no objects.
_CLASSES: dict[str, type] = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (
        metadata.Metadata,
        metadata.MetadataIndex,
        metadata.StorageMeta,
        metadata.TensorStorageMetadata,
        metadata.BytesStorageMetadata,
        metadata.ChunkStorageMetadata,
        metadata.TensorProperties,
        filesystem._StorageInfo,
    )
}
_VALUES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: partial(object.__new__, kind) for name, kind in _CLASSES.items()},
    f"{metadata.__name__}._MEM_FORMAT_ENCODING": metadata._MEM_FORMAT_ENCODING,
    "torch.Size": torch.Size,
    "torch.serialization._get_layout": torch.serialization._get_layout,
    # The folder that was written, which is not read.
    **{f"{module}.{name}": pathlib.PurePosixPath
       for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "PurePosixPath")},
    **{f"{module}.{name}": pathlib.PureWindowsPath
       for module in ("pathlib", "pathlib._local") for name in ("WindowsPath", "PureWindowsPath")},
}  # fmt: skip


def is_sharded_checkpoint(path: str | Path) -> bool:
    """Whether a path is a folder that `write_sharded` has written."""
    return Path(path, TABLE).is_file() and Path(path, STATE).is_file()


def write_sharded(folder: str | Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint; all processes call it with the same structure.

    The folder appears under its name when it is complete, and replaces a previous one.

    Args:
        folder: NAME.dcp, on a file system that all processes share.
        content: nested dicts, lists and tuples of tensors, `DTensor`s and plain values; plain
            values are those of the first process.

    Raises:
        CheckpointError: in all processes, if one of them cannot write; a previous folder is kept.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.partial")
    state, tensors = split_tensors(content)

    def prepare() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    def complete() -> None:
        torch.save(state, temporary / STATE)
        for path in (temporary / STATE, temporary):
            _flush(path)
        previous = folder.with_name(f".{folder.name}.previous")
        shutil.rmtree(previous, ignore_errors=True)
        if folder.exists():
            os.replace(folder, previous)
        os.replace(temporary, folder)
        shutil.rmtree(previous, ignore_errors=True)
        _flush(folder.parent)

    _on_first_process(prepare, folder)
    try:
        with _without_single_process_warning():
            save(tensors, storage_writer=FileSystemWriter(temporary), no_dist=_is_alone())
    except (CheckpointException, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: it could not be written ({cause_of(_cause(error))})"
        ) from error
    _on_first_process(complete, folder)


def read_sharded(folder: str | Path) -> dict[str, Any]:
    """Read a whole checkpoint into the memory of this process.

    Args:
        folder: of `write_sharded`.

    Returns:
        What was written, with complete tensors.

    Raises:
        CheckpointError: if the folder is damaged or would run code.
    """
    state, table = _read_state(folder), _read_table(folder)
    names = _references(state)
    _check_names(folder, names, table)
    tensors = {name: _empty(table[name]) for name in names}
    _load(folder, tensors, no_dist=True)
    content: dict[str, Any] = join_tensors(state, tensors)
    return content


def load_sharded(folder: str | Path, templates: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint into existing tensors; all processes call it.

    Args:
        folder: of `write_sharded`.
        templates: content with the structure of the checkpoint, whose tensors are overwritten; it
            may have more.

    Returns:
        The content of the checkpoint, its tensors those of `templates`. Entries at its top that
        `templates` lacks have complete tensors.

    Raises:
        CheckpointError: naming a tensor that `templates` lacks or has in another shape; if the
            folder is damaged or would run code.
    """
    state, table = _read_state(folder), _read_table(folder)
    names = _references(state)
    _check_names(folder, names, table)
    existing = split_tensors(templates)[1]
    tensors = {}
    for name in names:
        size = table[name].size
        if name in existing:
            if existing[name].shape != size:
                raise CheckpointError(
                    f'{folder}: "{name}" is {tuple(size)} in the checkpoint and '
                    f"{tuple(existing[name].shape)} in this training"
                )
            tensors[name] = existing[name]
        elif name.split("/")[0] in templates:
            raise CheckpointError(
                f'{folder}: this training has no "{name}"; it is of another model or configuration'
            )
        else:
            tensors[name] = _empty(table[name])
    _load(folder, tensors, no_dist=_is_alone())
    content: dict[str, Any] = join_tensors(state, tensors)
    return content


def split_tensors(content: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Separate the tensors of nested containers from the rest.

    Args:
        content: dicts, lists and tuples.
        name: start of the tensors' names, which are the keys that lead to them, joined by "/".

    Returns:
        The containers with a reference in each tensor's place, and the tensors by name.
    """
    if isinstance(content, Tensor):
        return {_REFERENCE: name}, {name: content.detach()}
    tensors: dict[str, Tensor] = {}

    def split(key: Any, value: Any) -> Any:
        rest, inside = split_tensors(value, f"{name}/{key}" if name else str(key))
        tensors.update(inside)
        return rest

    if isinstance(content, Mapping):
        return {key: split(key, value) for key, value in content.items()}, tensors
    if type(content) in (list, tuple):
        rest = [split(index, value) for index, value in enumerate(content)]
        return type(content)(rest), tensors
    return content, tensors


def join_tensors(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put tensors back into the containers; the inverse of `split_tensors`."""
    if isinstance(content, dict):
        if content.keys() == {_REFERENCE}:
            return tensors[content[_REFERENCE]]
        return {key: join_tensors(value, tensors) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(join_tensors(value, tensors) for value in content)
    return content


def distribute_like(content: Any, template: Any) -> Any:
    """Convert complete tensors to shares wherever the template has a `DTensor`.

    Nothing is communicated: every process takes its share of its own copy.

    Args:
        content: nested containers.
        template: containers with at least the same keys.
    """
    if isinstance(content, Tensor):
        if not isinstance(template, DTensor) or isinstance(content, DTensor):
            return content
        full = content.to(template.device)
        return distribute_tensor(
            full, template.device_mesh, template.placements, src_data_rank=None
        )
    if isinstance(content, Mapping) and isinstance(template, Mapping):
        return {key: distribute_like(value, template.get(key)) for key, value in content.items()}
    if isinstance(content, list | tuple) and isinstance(template, list | tuple):
        pairs = zip(content, template, strict=False)
        return type(content)(distribute_like(value, other) for value, other in pairs)
    return content


class _TableUnpickler(SafeUnpickler):
    """Unpickler of the table of tensors, which builds objects of its classes only."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, _FUNCTIONS, encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name in _VALUES:
            return _VALUES[full_name]
        if full_name not in _FUNCTIONS:
            raise UnsafePickleError(f'it names "{printable(full_name)}"')
        return super().find_class(module, name)

    def _load_build(self) -> None:
        state, instance = self.stack.pop(), self.stack[-1]
        if type(instance) not in _CLASSES.values():
            raise UnsafePickleError("it sets the state of something other than an object")
        if isinstance(instance, metadata.TensorProperties):
            instance.__setstate__(state)
        elif type(state) is dict and state.keys() <= {field.name for field in fields(instance)}:
            vars(instance).update(state)
        else:
            raise TypeError("a state with other fields")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **SafeUnpickler.dispatch,
        pickle.BUILD[0]: _load_build,
    }


class _Part(io.RawIOBase):
    """Bytes of one tensor in a file, as a file; PyTorch's own view cannot be read to its end."""

    def __init__(self, file: BinaryIO, info: filesystem._StorageInfo) -> None:
        self._file, self._start, self._size = file, info.offset, info.length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _SafeReader(FileSystemReader):
    """Reader of a folder whose pickles are checked before PyTorch reads them."""

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> metadata.Metadata:
        with open(Path(self.path, TABLE), "rb") as file:
            table = load_safely(_TableUnpickler(file))
        if not isinstance(table, metadata.Metadata):
            raise pickle.UnpicklingError("it is no table of tensors")
        table.storage_meta = metadata.StorageMeta(load_id=self.load_id)
        for info in table.storage_data.values():
            if Path(info.relative_path).name != info.relative_path:
                raise UnsafePickleError(f'it names the file "{printable(info.relative_path)}"')
            if info.transform_descriptors:
                raise UnsafePickleError("its tensors are compressed")
        return table

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Any:
        for item in plan.items:
            info = self.storage_data[item.storage_index]
            with open(Path(self.path, info.relative_path), "rb") as file:
                check_torch_zip(io.BufferedReader(_Part(file, info)), info.length)
        return super().read_data(plan, planner)


def _read_table(folder: str | Path) -> dict[str, Any]:
    try:
        return dict(_SafeReader(folder).read_metadata().state_dict_metadata)
    except UnsafePickleError as error:
        raise CheckpointError(
            f"{folder}: refused, and nothing of it was run: {cause_of(error)}"
        ) from error
    except Exception as error:
        raise CheckpointError(f"{folder}: its table of tensors is damaged") from error


def _read_state(folder: str | Path) -> dict[str, Any]:
    try:
        is_zip = zipfile.is_zipfile(Path(folder, STATE))
        state = (read_torch_zip if is_zip else read_torch_legacy)(Path(folder, STATE))
    except UnsafePickleError as error:
        raise CheckpointError(
            f"{folder}: {STATE} is refused, and nothing of it was run ({cause_of(error)})"
        ) from error
    except Exception as error:
        raise CheckpointError(f"{folder}: {STATE} is damaged") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{folder}: {STATE} is damaged")
    return state


def _references(content: Any) -> list[str]:
    """Names of all tensors of a `state.pth`."""
    if isinstance(content, dict):
        if content.keys() == {_REFERENCE}:
            return [str(content[_REFERENCE])]
        content = content.values()
    elif not isinstance(content, list | tuple):
        return []
    return [name for value in content for name in _references(value)]


def _check_names(folder: str | Path, names: list[str], table: dict[str, Any]) -> None:
    """Check that the table has these tensors, and not more bytes of them than the folder has."""
    stored = sum(file.stat().st_size for file in Path(folder).iterdir() if file.is_file())
    declared = 0
    for name in names:
        entry = table.get(name)
        if not isinstance(entry, metadata.TensorStorageMetadata):
            raise CheckpointError(f'{folder}: its table of tensors has no "{printable(name)}"')
        declared += math.prod(entry.size) * entry.properties.dtype.itemsize
    if declared > stored:
        raise CheckpointError(
            f"{folder}: its table declares tensors of {declared:,} bytes, and its files have "
            f"{stored:,}"
        )


def _empty(entry: metadata.TensorStorageMetadata) -> Tensor:
    return torch.empty(entry.size, dtype=entry.properties.dtype)


def _load(folder: str | Path, tensors: dict[str, Tensor], *, no_dist: bool) -> None:
    try:
        with _without_single_process_warning():
            load(dict(tensors), storage_reader=_SafeReader(folder), no_dist=no_dist)
    except (CheckpointException, OSError, RuntimeError, ValueError, LookupError) as error:
        raise CheckpointError(
            f"{folder}: it could not be read ({cause_of(_cause(error))})"
        ) from error


def _is_alone() -> bool:
    return not dist.is_available() or not dist.is_initialized()


@contextmanager
def _without_single_process_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _cause(error: BaseException) -> BaseException:
    """The first process's exception inside a `CheckpointException`."""
    if isinstance(error, CheckpointException) and error.failures:
        return next(iter(error.failures.values()))[0]
    return error


def _on_first_process(action: Callable[[], None], folder: Path) -> None:
    """Run an action in the first process, and raise its error in all of them."""
    message: list[str | None] = [None]
    if _is_alone() or dist.get_rank() == 0:
        try:
            action()
        except (OSError, RuntimeError) as error:
            message[0] = f"{folder}: it could not be written ({cause_of(error)})"
    if not _is_alone():
        dist.broadcast_object_list(message, src=0)
    if message[0] is not None:
        raise CheckpointError(message[0])


def _flush(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
