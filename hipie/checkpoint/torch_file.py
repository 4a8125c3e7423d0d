"""Reading of the files of `torch.save` and TorchScript without PyTorch's unpickler.

Three layouts, told by their first bytes:

- zip (since PyTorch 1.6): `NAME/data.pkl`, and the bytes of each storage in `NAME/data/KEY`,
  uncompressed.
- TorchScript: the same, with code beside it, which is not looked at; the modules in `data.pkl` are
  objects whose state holds tensors and further modules.
- legacy: five pickles (magic number, protocol, system, content, storage keys), then each storage as
  its number of elements (8 bytes) and its bytes.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from hipie.checkpoint.safe_pickle import (
    Global,
    InertObject,
    SafeUnpickler,
    load_safely,
)
from hipie.errors import InputError, printable
from hipie.pickle_scan import UnsafePickleError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
# A tensor may have more elements than its storage (`expand`), up to this many bytes.
MAX_EXPANDED_BYTES = 64 * 2**20
MAX_DIMENSIONS = 64
_LOCAL_HEADER = struct.Struct("<4s22xHH")

_STORAGE_DTYPES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
_DTYPES: Mapping[str, torch.dtype] = {
    f"torch.{name}": value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and "q" not in name
}
_REFUSED_KINDS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without values (device meta)",
    "_rebuild_device_tensor_from_numpy": "a tensor of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "_rebuild_wrapper_subclass": "a tensor of a class of its own",
}


class Storage:
    """Bytes of one storage, read once; several tensors may be views of it.

    Args:
        data: [N] uint8.
        dtype: of its elements.
    """

    def __init__(self, data: Tensor, dtype: torch.dtype) -> None:
        self.data = data
        self.dtype = dtype

    def part(self, offset: int, size: int) -> Storage:
        """Return `size` elements from `offset` on, as legacy files store views."""
        item = self.dtype.itemsize
        return Storage(self.data[offset * item : (offset + size) * item], self.dtype)

    def view(self, dtype: torch.dtype) -> Tensor:
        """Return the elements as a tensor [N] of the given type."""
        return self.data[: len(self.data) // dtype.itemsize * dtype.itemsize].view(dtype)


def read_torch_zip(path: Path) -> Any:
    """Read a zip file of `torch.save` or TorchScript.

    Returns:
        What was saved, with tensors on the CPU; a TorchScript module is a dict of its tensors by
        name. Objects of foreign classes are `InertObject`s.

    Raises:
        UnsafePickleError: if the pickle names code, or members overlap or are compressed.
        pickle.UnpicklingError: if it is damaged.
        zipfile.BadZipFile, ValueError: likewise.
    """
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members = _check_members(archive, path.stat().st_size)
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError("no data.pkl in the zip file")
        folder = pickles[0].removesuffix("data.pkl")
        swapped = _byte_order(archive, members, folder) != sys.byteorder
        storages: dict[tuple[str, torch.dtype], Storage] = {}

        def load_storage(pid: Any) -> Storage:
            dtype, key, count = _storage_reference(pid)
            if (key, dtype) not in storages:
                member = members.get(f"{folder}data/{key}")
                if member is None or count * dtype.itemsize > member.file_size:
                    raise EOFError
                data = _read_bytes(file, _data_offset(file, member), count * dtype.itemsize)
                if swapped:
                    data = data.view(-1, dtype.itemsize).flip(1).reshape(-1)
                storages[key, dtype] = Storage(data, dtype)
            return storages[key, dtype]

        content = _load(io.BytesIO(archive.read(pickles[0])), load_storage)
    if f"{folder}constants.pkl" in members:
        return module_tensors(content)
    return content


def check_torch_zip(file: BinaryIO, size: int) -> None:
    """Check a zip file of `torch.save` before PyTorch reads it, without reading its tensors.

    PyTorch's reader of weights ends the process on a tuple that is nested deeply enough.

    Args:
        file: at its start.
        size: of the file, bytes.

    Raises:
        UnsafePickleError: if the pickle names code, or members overlap or are compressed.
        pickle.UnpicklingError, zipfile.BadZipFile, ValueError: if it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        members = _check_members(archive, size)
        for name in (name for name in members if name.endswith(".pkl")):
            stream = io.BytesIO(archive.read(name))
            functions = _functions(lambda *_: None)
            load_safely(SafeUnpickler(stream, functions, _storage_reference, "utf-8"))


def read_torch_legacy(path: Path) -> Any:
    """Read a file of `torch.save` of before PyTorch 1.6, or a plain pickle of arrays.

    Returns:
        See `read_torch_zip`.

    Raises:
        UnsafePickleError: if a pickle names code.
        pickle.UnpicklingError: if it is damaged.
    """
    with open(path, "rb") as file:
        first = load_safely(SafeUnpickler(file))
        if first != MAGIC_NUMBER:
            return first
        load_safely(SafeUnpickler(file))
        system = load_safely(SafeUnpickler(file))
        if isinstance(system, dict) and not system.get("little_endian", True):
            raise InputError("a file of a big-endian machine")
        start = file.tell()
        # The content comes before the storages in the file: first find out which there are.
        references: dict[str, tuple[torch.dtype, int]] = {}

        def note_storage(pid: Any) -> Any:
            if _is_module_reference(pid):
                return pid[1]
            dtype, key, count = _storage_reference(pid)
            references[key] = dtype, count
            # The dtype and the size decide about errors, so that nothing is read twice for them.
            return Storage(torch.empty(0, dtype=torch.uint8), dtype)

        SafeUnpickler(file, _functions(lambda *_: None), note_storage, "utf-8").load()
        keys = load_safely(SafeUnpickler(file))
        storages = {key: _read_legacy_storage(file, *references[key]) for key in keys}

        def load_storage(pid: Any) -> Any:
            if _is_module_reference(pid):
                return pid[1]
            _, key, _ = _storage_reference(pid)
            view = pid[5] if len(pid) > 5 else None
            return storages[key].part(view[1], view[2]) if view else storages[key]

        file.seek(start)
        return _load(file, load_storage)


def module_tensors(content: Any) -> Any:
    """Return the tensors of a pickled module by their names in its state dict.

    Args:
        content: an `InertObject` of a TorchScript module (its state is a dict of attributes) or of
            a Python module (with `_parameters`, `_buffers` and `_modules`); anything else is
            returned as it is.
    """
    if not isinstance(content, InertObject):
        return content
    return dict(_named_tensors(content, "", set()))


def _named_tensors(
    module: InertObject, prefix: str, visited: set[int]
) -> Iterator[tuple[str, Tensor]]:
    if id(module) in visited or len(prefix) > 1000 or not isinstance(module.state, dict):
        return
    visited.add(id(module))
    attributes: dict[Any, Any] = {}
    for name, value in module.state.items():
        if name in ("_parameters", "_buffers", "_modules") and isinstance(value, dict):
            attributes.update(value)
        else:
            attributes[name] = value
    for name, value in attributes.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, InertObject):
            yield from _named_tensors(value, f"{prefix}{name}.", visited)


def _load(stream: Any, load_storage: Callable[[Any], Any]) -> Any:
    return load_safely(SafeUnpickler(stream, _functions(_rebuild), load_storage, "utf-8"))


def _check_members(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """Check that the members are stored one after the other, and return them by name.

    PyTorch compresses no tensors (TorchScript its code, which is not read) and shares no bytes
    between members, so a file that does is built to become larger in memory than it is.
    """
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    end = 0
    for member in members:
        stored = member.compress_type == zipfile.ZIP_STORED
        if not (stored and member.file_size == member.compress_size) and _is_read(member.filename):
            raise UnsafePickleError("its members are compressed, which files of weights are not")
        if member.header_offset < end:
            raise UnsafePickleError("its members overlap")
        end = (
            member.header_offset + _LOCAL_HEADER.size + len(member.filename) + member.compress_size
        )
    if end > file_size:
        raise EOFError
    return {member.filename: member for member in members}


def _is_read(name: str) -> bool:
    """Whether a member is data; the others are code and its debugging information."""
    return "/code/" not in name and not name.endswith((".debug_pkl", ".py"))


def _data_offset(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Return the position of a member's bytes, behind its local header."""
    file.seek(member.header_offset)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise InputError("a damaged zip file")
    return member.header_offset + _LOCAL_HEADER.size + name_length + extra_length


def _byte_order(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], folder: str
) -> str:
    member = members.get(f"{folder}byteorder")
    if member is None or member.file_size > 16:
        return "little"
    return archive.read(member).decode("ascii", "replace")


def _read_bytes(file: BinaryIO, offset: int, size: int) -> Tensor:
    """Read `size` bytes at `offset` into a new tensor [size] uint8."""
    if offset + size > os.fstat(file.fileno()).st_size:
        raise EOFError
    data = torch.empty(size, dtype=torch.uint8)
    file.seek(offset)
    values: Any = np.asarray(data)
    if size and file.readinto(memoryview(values)) != size:  # type: ignore[attr-defined]
        raise EOFError
    return data


def _read_legacy_storage(file: BinaryIO, dtype: torch.dtype, count: int) -> Storage:
    """Read the number of elements and the elements of one storage."""
    (stored,) = struct.unpack("<q", file.read(8))
    if stored != count or count < 0:
        raise EOFError
    size = count * dtype.itemsize
    return Storage(_read_bytes(file, file.tell(), size), dtype)


def _is_module_reference(pid: Any) -> bool:
    """Whether a reference is to the class of a pickled module, with its source code behind it."""
    return type(pid) is tuple and len(pid) == 4 and pid[0] == "module" and type(pid[1]) is Global


def _storage_reference(pid: Any) -> tuple[torch.dtype, str, int]:
    """Return the data type, the key and the number of elements of a storage's reference."""
    if type(pid) is not tuple or len(pid) < 5 or pid[0] not in ("storage", b"storage"):
        raise UnsafePickleError("it names an object outside the file")
    kind, key, _device, count = pid[1:5]
    name = kind.name.rpartition(".")[2] if isinstance(kind, Global) else ""
    if name not in _STORAGE_DTYPES:
        shown = printable(name or str(type(kind).__name__))
        raise UnsafePickleError(f'it holds a storage "{shown}", and only dense tensors are read')
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise TypeError("a damaged storage")
    return _STORAGE_DTYPES[name], key, count


def _functions(rebuild: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Return what is run for the names of PyTorch that build tensors.

    Args:
        rebuild: makes a tensor of a storage, an offset, sizes, strides and a data type.
    """

    def tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
        return rebuild(storage, offset, size, stride, None)

    def tensor_v3(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
        return rebuild(storage, offset, size, stride, rest[2])

    def typed(function: Any, _kind: Any, args: Any, _state: Any) -> Any:
        if not isinstance(function, Global) or not function.name.startswith("torch._utils._rebu"):
            raise UnsafePickleError("it builds a tensor by something other than PyTorch's function")
        return function.call(tuple(args))

    def refuse(kind: str) -> Callable[..., Any]:
        def function(*_: Any) -> Any:
            raise UnsafePickleError(f"it holds {kind}, and only dense tensors are read")

        return function

    def first(value: Any, *_: Any) -> Any:
        return value

    functions: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_tensor_v3": tensor_v3,
        "torch._utils._rebuild_parameter": first,
        "torch._utils._rebuild_parameter_with_state": first,
        "torch.nn.parameter.Parameter": first,
        "torch.nn.parameter.Buffer": first,
        "torch.Size": first,
        "torch.device": lambda *args: ":".join(map(str, args)),
        "torch._tensor._rebuild_from_type_v2": typed,
        "torch._tensor._rebuild_from_type": lambda function, kind, args, state: typed(
            function, kind, args, state
        ),
        "torch.serialization._get_layout": lambda name: name,
        "torch.Tensor": refuse("a tensor without values"),
        **{
            f"torch.jit._pickle.build_{kind}list": list
            for kind in ("int", "tensor", "double", "bool")
        },
        **{f"torch._utils.{name}": refuse(kind) for name, kind in _REFUSED_KINDS.items()},
    }
    for name in _STORAGE_DTYPES:
        for module in ("torch", "torch.cuda", "torch.storage"):
            functions[f"{module}.{name}"] = refuse("a storage without a tensor")
    for name in (*_DTYPES, "torch.storage._LegacyStorage", "torch.storage.TypedStorage"):
        functions[name] = refuse("a data type that is called")
    for name in ("QInt8Storage", "QUInt8Storage", "QInt32Storage"):
        functions[f"torch.{name}"] = refuse("a quantized tensor")
    return functions


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any) -> Tensor:
    """Make a tensor of a storage; see `_functions`.

    Raises:
        UnsafePickleError: if it is far larger than its storage.
        ValueError, TypeError: if it reaches beyond its storage, or a field has another type.
    """
    if not isinstance(storage, Storage):
        raise TypeError("a tensor without a storage")
    if dtype is None:
        kind = storage.dtype
    elif isinstance(dtype, Global) and dtype.name in _DTYPES:
        kind = _DTYPES[dtype.name]
    else:
        raise TypeError("a tensor of an unknown data type")
    numbers = [offset, *size, *stride]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise InputError("a size, stride or offset that is no whole number from 0 on")
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
        raise InputError("a tensor of unequal numbers of sizes and strides")
    elements = storage.view(kind)
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and last >= len(elements):
        raise InputError("a tensor that reaches beyond its storage")
    if count > len(elements) and count * kind.itemsize > MAX_EXPANDED_BYTES:
        raise UnsafePickleError(f"it holds a tensor of {count:,} elements in {len(elements):,}")
    if not count:
        return torch.empty(tuple(size), dtype=kind)
    return elements.as_strided(tuple(size), tuple(stride), offset)


def is_legacy_start(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a pickle of protocol 2 or newer."""
    return start[:1] == pickle.PROTO
