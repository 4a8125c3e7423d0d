"""Checkpoints of sharded models: a folder `NAME.dcp` in the format of torch.distributed.checkpoint.

Every process writes its shares of the tensors. `state.pth` has everything else, with the name of a
tensor in each tensor's place. A folder can be read with any number of processes, also with one, and
like all files of weights without running code in it: `torch.distributed.checkpoint` stores its
table of tensors as a pickle, of which only the classes below are built.
"""

from __future__ import annotations

import os
import pathlib
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.safe_pickle import UnsafePickleError
from hipie.errors import cause_of

SUFFIX = ".dcp"
TABLE, STATE = ".metadata", "state.pth"
# Key of a dict that stands for a tensor in `state.pth`; its value is the tensor's name.
_REFERENCE = "__tensor__"

_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_ALLOWED: dict[str, Any] = {
    **{
        f"{kind.__module__}.{kind.__qualname__}": kind
        for kind in (
            metadata.Metadata,
            metadata.MetadataIndex,
            metadata.StorageMeta,
            metadata.TensorStorageMetadata,
            metadata.BytesStorageMetadata,
            metadata.ChunkStorageMetadata,
            metadata.TensorProperties,
            metadata._MEM_FORMAT_ENCODING,
            filesystem._StorageInfo,
            torch.Size,
        )
    },
    **_DTYPES,
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


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in _ALLOWED:
            raise UnsafePickleError(f'it names "{full_name}"')
        return _ALLOWED[full_name]


class _SafeReader(FileSystemReader):
    """Reader whose table of tensors is unpickled without running code."""

    def read_metadata(self, *_args: Any, **_kwargs: Any) -> metadata.Metadata:
        with open(Path(self.path, TABLE), "rb") as file:
            table: metadata.Metadata = _SafeUnpickler(file).load()
        table.storage_meta = metadata.StorageMeta(load_id=self.load_id)
        for info in table.storage_data.values():
            if Path(info.relative_path).name != info.relative_path:
                raise UnsafePickleError(f'it names the file "{info.relative_path}"')
        return table


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
        state = torch.load(Path(folder, STATE), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
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
    for name in names:
        if not isinstance(table.get(name), metadata.TensorStorageMetadata):
            raise CheckpointError(f'{folder}: its table of tensors has no "{name}"')


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
