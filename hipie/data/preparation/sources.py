"""Data sets as people get them: folders and archives, copied into the tree whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

THREADS, AT_ONCE = 8, 64


class DeliveryError(ValueError):
    """What was delivered cannot be used; the message names the file."""


@dataclass(frozen=True)
class _Place:
    """Where a file is: a path, or a path inside an archive; and its bytes."""

    path: Path
    inside: str | None
    size: int


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
        self._places: dict[str, _Place] = {}
        for archive in sorted(self.folder.glob("*.zip")):
            for name, size in _sizes_in(archive).items():
                self._places[f"{archive.stem}/{name}"] = _Place(archive, name, size)
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.suffix != ".zip":
                name = path.relative_to(self.folder).as_posix()
                self._places[name] = _Place(path, None, path.stat().st_size)
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
            unpacked = [name for name in found if self._places[name].inside is None]
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
            wanted = f"/{folder.lower()}/"
            found = {}
            for name in self._places:
                start = f"/{name.lower()}".find(wanted)
                if start >= 0:
                    found[name[start + len(wanted) - 1 :]] = name
            if found:
                return found
        return {}

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file for reading, from the folder or from its archive."""
        place = self._places[name]
        with ExitStack() as stack:
            if place.inside is None:
                yield stack.enter_context(place.path.open("rb"))
            else:
                archive = stack.enter_context(zipfile.ZipFile(place.path))
                yield stack.enter_context(archive.open(place.inside))

    def copy(self, name: str, target: Path) -> bool:
        """Copy a file to the tree, whole or not at all; what is there in its size is kept.

        Returns:
            whether it was copied.

        Raises:
            DeliveryError: if the archive is damaged.
        """
        if self._is_there(name, target):
            return False
        self._copy_some([(name, target)])
        return True

    def copy_all(self, names: Iterable[tuple[str, Path]], title: str) -> int:
        """Copy many files in several threads, with a progress bar.

        Returns:
            how many were not there yet.

        Raises:
            DeliveryError: if an archive is damaged.
        """
        pairs = [pair for pair in names if not self._is_there(*pair)]
        pieces = [pairs[start : start + AT_ONCE] for start in range(0, len(pairs), AT_ONCE)]
        with (
            tqdm(total=len(pairs), desc=title, unit="file", leave=False) as bar,
            ThreadPoolExecutor(THREADS) as pool,
        ):
            try:
                for done in as_completed([pool.submit(self._copy_some, one) for one in pieces]):
                    bar.update(done.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return len(pairs)

    def _is_there(self, name: str, target: Path) -> bool:
        return target.is_file() and target.stat().st_size == self._places[name].size

    def _copy_some(self, pairs: Sequence[tuple[str, Path]]) -> int:
        """Copy files, each archive opened once; returns how many."""
        archives: dict[Path, zipfile.ZipFile] = {}
        with ExitStack() as stack:
            for name, target in pairs:
                place = self._places[name]
                try:
                    if place.inside is None:
                        source = place.path.open("rb")
                    else:
                        if place.path not in archives:
                            opened = zipfile.ZipFile(place.path)
                            archives[place.path] = stack.enter_context(opened)
                        source = archives[place.path].open(place.inside)
                    with source, whole_file(target) as stream:
                        shutil.copyfileobj(source, stream, 1 << 20)
                except (zipfile.BadZipFile, EOFError, zlib.error) as error:
                    raise DeliveryError(f"{place.path}: {name} is damaged ({error})") from error
        return len(pairs)


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


def _sizes_in(archive: Path) -> dict[str, int]:
    """Names of the files in an archive, with their bytes."""
    try:
        with zipfile.ZipFile(archive) as content:
            return {
                entry.filename: entry.file_size
                for entry in content.infolist()
                if not entry.is_dir() and _is_inside(entry.filename)
            }
    except (zipfile.BadZipFile, OSError) as error:
        raise DeliveryError(f"{archive}: this zip archive is damaged ({error})") from error


def _is_inside(name: str) -> bool:
    """Whether a name stays in its folder, and is no note of macOS."""
    parts = PurePosixPath(name).parts
    return not name.startswith("/") and ".." not in parts and "__MACOSX" not in parts
