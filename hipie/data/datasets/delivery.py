"""Data sets as people get them: folders and archives, copied into the tree whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm


class DeliveryError(ValueError):
    """What was delivered cannot be used; the message names the file."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        name: what it is called.
        address: the page or file to get it from.
        size: in words, about.
        licence: in words.
    """

    name: str
    address: str
    size: str
    licence: str

    def __str__(self) -> str:
        return f"{self.name}: {self.address} ({self.size}; {self.licence})"


class Delivery:
    """The files of a folder and of the zip archives directly in it, by the ends of their paths.

    An archive counts as a folder of its name; what is unpacked goes before what is in an archive.

    Args:
        folder: where the files were put as they were downloaded.

    Raises:
        DeliveryError: if there is no such folder, or an archive in it is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DeliveryError(f"{self.folder}: there is no such folder")
        self._places: dict[str, tuple[Path, str | None]] = {}
        for archive in sorted(self.folder.glob("*.zip")):
            for name in _names_in(archive):
                self._places[f"{archive.stem}/{name}"] = (archive, name)
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.suffix != ".zip":
                self._places[path.relative_to(self.folder).as_posix()] = (path, None)
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for name in self._places:
            parts = name.split("/")
            for start in range(len(parts)):
                self._by_end["/".join(parts[start:])].append(name)

    def find(self, *ends: str) -> str:
        """The file whose path ends with one of `ends`, the first of them that is there.

        Raises:
            DeliveryError: if there is none, or an end fits several files.
        """
        for end in ends:
            found = self.ending_with(end)
            unpacked = [name for name in found if self._places[name][1] is None]
            found = unpacked or found
            if len(found) > 1:
                raise DeliveryError(
                    f"{self.folder}: {end} may be {' or '.join(found[:3])}; keep one of them"
                )
            if found:
                return found[0]
        raise DeliveryError(f"{self.folder}: there is no {ends[0]} here, nor in a zip archive here")

    def ending_with(self, end: str) -> list[str]:
        """All files whose path ends with these parts of a path."""
        return self._by_end.get(end, [])

    def below(self, *folders: str) -> dict[str, str]:
        """Files under a folder (the first of `folders` that is there): path below it -> name.

        Folders are found wherever they are in the tree; upper and lower case are the same.
        """
        for folder in folders:
            wanted = tuple(part.lower() for part in PurePosixPath(folder).parts)
            found = {}
            for name in self._places:
                parts = PurePosixPath(name).parts
                lower = tuple(part.lower() for part in parts)
                for start in range(len(parts) - len(wanted)):
                    if lower[start : start + len(wanted)] == wanted:
                        found["/".join(parts[start + len(wanted) :])] = name
                        break
            if found:
                return found
        return {}

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file for reading, from the folder or from its archive."""
        path, inside = self._places[name]
        if inside is None:
            with path.open("rb") as stream:
                yield stream
            return
        with zipfile.ZipFile(path) as archive, archive.open(inside) as stream:
            yield stream

    def size(self, name: str) -> int:
        """Bytes of a file."""
        path, inside = self._places[name]
        if inside is None:
            return path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            return archive.getinfo(inside).file_size

    def copy(self, name: str, target: Path) -> bool:
        """Copy a file to the tree, whole or not at all; what is there in its size is kept.

        Returns:
            whether it was copied.

        Raises:
            DeliveryError: if the archive is damaged.
        """
        if target.is_file() and target.stat().st_size == self.size(name):
            return False
        try:
            with self.open(name) as source, whole_file(target) as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
        except (zipfile.BadZipFile, EOFError) as error:
            raise DeliveryError(f"{self._places[name][0]}: {name} is damaged ({error})") from error
        return True

    def copy_all(self, names: Iterable[tuple[str, Path]], title: str) -> int:
        """Copy many files with a progress bar; returns how many were not there yet."""
        pairs = list(names)
        return sum(self.copy(*pair) for pair in tqdm(pairs, desc=title, unit="file", leave=False))


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file for writing that takes its place only when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _names_in(archive: Path) -> list[str]:
    try:
        with zipfile.ZipFile(archive) as content:
            return [
                entry.filename
                for entry in content.infolist()
                if not entry.is_dir() and _is_inside(entry.filename)
            ]
    except (zipfile.BadZipFile, OSError) as error:
        raise DeliveryError(f"{archive}: this zip archive is damaged ({error})") from error


def _is_inside(name: str) -> bool:
    """Whether a name stays in its folder, and is no note of macOS."""
    parts = PurePosixPath(name).parts
    return not name.startswith("/") and ".." not in parts and "__MACOSX" not in parts
