"""Folders and files on the local disk, S3, GCS and other file systems of pyarrow, by address."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from hipie.batch_inference.formats.parquet import require_pyarrow
from hipie.errors import InputError, MachineError, MissingFileError, cause_of, printable
from hipie.result_files import replace_file

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^?]*)(\?.*)?\Z", re.DOTALL)
# What the storage service says, in the messages of pyarrow.
_CODE = re.compile(r"(?:AWS|Azure|GCS) [Ee]rror ([A-Z_]{4,})")
# Where a file appears at once, when all of it has been sent.
_OBJECT_STORES = ("s3", "gcs", "abfs")


def is_address(text: str) -> bool:
    """Whether a text is an address such as `s3://bucket/folder`, and no path."""
    return bool(_ADDRESS.match(text))


def reason_of(error: BaseException) -> str:
    """Describe an error of pyarrow, as the end of a message.

    >>> reason_of(OSError("When listing objects: AWS Error ACCESS_DENIED during ListObjectsV2: No"))
    'ACCESS_DENIED'
    """
    match = _CODE.search(str(error))
    if match is not None:
        return match[1]
    known = cause_of(error)
    return known if known != type(error).__name__ else printable(error, 160) or known


class Storage:
    """A folder or file, and what is below it.

    Args:
        location: a path, or an address of a file system of pyarrow: `s3://BUCKET/FOLDER`,
            `gs://BUCKET/FOLDER`, `file:///FOLDER`, `hdfs://HOST:PORT/FOLDER`; options of the file
            system follow "?", as in `s3://bucket/folder?region=eu-central-1` and
            `s3://bucket?endpoint_override=127.0.0.1:9000&scheme=http`. Credentials are those of
            the environment, on every machine.

    Attributes:
        location: as it was given.
        is_local: whether it is on the disk of this machine, or mounted there.
        path: inside the file system.

    Raises:
        InputError: for an address that pyarrow does not know.
        MissingPackageError: without pyarrow.
    """

    def __init__(self, location: str) -> None:
        require_pyarrow("--engine ray")
        import pyarrow as pa
        from pyarrow import fs

        self.location = location
        self._errors = (OSError, pa.ArrowException)
        self._prefix = ""
        match = _ADDRESS.match(location)
        if match is None or match[1] == "file":
            self.filesystem: Any = fs.LocalFileSystem()
            self.path = os.path.abspath(location if match is None else match[2])
        else:
            scheme, path, options = match[1], match[2].rstrip("/"), match[3] or ""
            try:
                self.filesystem, self.path = fs.FileSystem.from_uri(
                    f"{scheme}://{quote(path, safe='/:@')}{options}"
                )
            except (*self._errors, ValueError) as error:
                raise InputError(
                    f"{printable(location)}: this address cannot be used ({reason_of(error)})"
                ) from error
            self.path = self.path.rstrip("/")
            # What stands before paths of this file system, as in hdfs://host:port/folder.
            self._prefix = f"{scheme}://{path.removesuffix(self.path)}"
        self.is_local = self.filesystem.type_name == "local"
        self._is_object_store = self.filesystem.type_name in _OBJECT_STORES

    def join(self, name: str) -> str:
        """Return the path of a file below the folder, inside the file system."""
        return f"{self.path}/{name}" if name else self.path

    def address(self, path: str) -> str:
        """Return the address of a path of the file system, without options."""
        return path if self.is_local else f"{self._prefix}{path}"

    def read(self, path: str, kind: str = "file") -> bytes:
        """Read a file by its path in the file system.

        Args:
            path: inside the file system.
            kind: what the file is, for messages.

        Raises:
            MissingFileError: if there is none.
            MachineError: if it cannot be read.
        """
        try:
            with self.filesystem.open_input_stream(path) as stream:
                return stream.read()
        except FileNotFoundError as error:
            raise MissingFileError(f"{self.address(path)}: there is no such {kind}") from error
        except self._errors as error:
            raise MachineError(
                f"{self.address(path)}: it cannot be read ({reason_of(error)})"
            ) from error

    def read_if_exists(self, path: str) -> bytes | None:
        """Read a file by its path in the file system; None if there is none."""
        try:
            return self.read(path)
        except MissingFileError:
            return None

    def write(self, path: str, data: bytes) -> None:
        """Write a file by its path in the file system: all of it, or nothing.

        Raises:
            HipieError: if it cannot be written.
        """
        if self.is_local:
            replace_file(path, lambda file: file.write(data))
            return
        with self._writing(path):
            if self._is_object_store:
                self._send(path, data)
            else:
                temporary = f"{path}.{os.getpid()}.tmp"
                self.filesystem.create_dir(os.path.dirname(path), recursive=True)
                self._send(temporary, data)
                self.filesystem.move(temporary, path)

    def delete(self, path: str) -> None:
        """Delete a file or a folder with all that is in it, if there is one.

        Raises:
            MachineError: if it cannot be deleted.
        """
        with self._writing(path):
            kind = self.filesystem.get_file_info(path).type.name
            if kind == "File":
                self.filesystem.delete_file(path)
            elif kind == "Directory":
                self.filesystem.delete_dir(path)

    def info(self, path: str) -> Any:
        """Return the `pyarrow.fs.FileInfo` of a path.

        Raises:
            MachineError: if the file system does not answer.
        """
        try:
            return self.filesystem.get_file_info(path)
        except self._errors as error:
            raise MachineError(
                f"{self.address(path)}: it cannot be read ({reason_of(error)})"
            ) from error

    def files(self, path: str, *, recursive: bool = False) -> list[Any]:
        """List the files in a folder, sorted by path, as `pyarrow.fs.FileInfo`.

        Raises:
            MachineError: if the folder cannot be read; one that does not exist has no files.
        """
        from pyarrow import fs

        # True: a folder that does not exist is an empty one.
        selector = fs.FileSelector(path, True, recursive)
        try:
            entries = self.filesystem.get_file_info(selector)
        except self._errors as error:
            raise MachineError(
                f"{self.address(path)}: the folder cannot be read ({reason_of(error)})"
            ) from error
        return sorted((one for one in entries if one.is_file), key=lambda one: one.path)

    @contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise MachineError(
                f"{self.address(path)}: it cannot be written ({reason_of(error)})"
            ) from error

    def _send(self, path: str, data: bytes) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(data)


def to_parquet_bytes(content: Any, schema: Any = None) -> bytes:
    """Return a Parquet file of a table's rows (a list) or columns (a dict)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(content, dict):
        table = pa.table(content, schema)
    else:
        table = pa.Table.from_pylist(content, schema)
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue().to_pybytes()
