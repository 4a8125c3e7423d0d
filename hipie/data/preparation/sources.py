"""Downloaded files of data sets: folders and zip archives, copied atomically."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from hipie.atomic_file import open_replaced
from hipie.errors import InputError, cause_of, printable

NUM_THREADS = 8
FILES_PER_TASK = 64
COPY_BUFFER_BYTES = 1 << 20
# The largest archive of a data set (Objects365) has some 2 million files.
MAX_MEMBERS = 10_000_000


class SourceError(InputError):
    """Downloaded files that cannot be used; the message names the file."""


@dataclass(frozen=True)
class DownloadSource:
    """Where to download a data set.

    Attributes:
        name: name of the files.
        address: URL of a page or file.
        size: approximate size, as text.
        licence: licence, as text.
        files: paths below the root of all data sets that are there once its files are, in the form
            of `Path.glob`.
    """

    name: str
    address: str
    size: str
    licence: str
    files: tuple[str, ...] = ()

    def missing(self, root: Path) -> list[str]:
        """Return those of `files` that are not below a root."""
        return [pattern for pattern in self.files if next(root.glob(pattern), None) is None]

    def __str__(self) -> str:
        return f"{self.name}: {self.address} ({self.size}; {self.licence})"


@dataclass(frozen=True)
class _Location:
    """Location of a file: its path or its archive's, its name in the archive, its size in bytes."""

    path: Path
    member: str | None
    size: int


class SourceFiles:
    """Files of a folder and of the zip archives in it, found by the end of their paths.

    An archive is treated as a folder with its name; unpacked files take precedence over archives.

    Args:
        folder: folder of the downloaded files.

    Raises:
        SourceError: if there is no such folder, or an archive in it is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise SourceError(f"{self.folder}: there is no such folder")
        self._locations: dict[str, _Location] = {}
        for archive in sorted(self.folder.glob("*.zip")):
            for name, size in _archive_sizes(archive).items():
                self._locations[f"{archive.stem}/{name}"] = _Location(archive, name, size)
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.suffix != ".zip":
                name = path.relative_to(self.folder).as_posix()
                self._locations[name] = _Location(path, None, path.stat().st_size)
        self._by_suffix: dict[str, list[str]] = defaultdict(list)
        for name in self._locations:
            parts = name.split("/")
            for start in range(len(parts)):
                self._by_suffix["/".join(parts[start:])].append(name)

    def find(self, *suffixes: str) -> str:
        """Return the file whose path ends with the first of `suffixes` that matches.

        Raises:
            SourceError: if none matches, or one matches several files.
        """
        for suffix in suffixes:
            names = self.ending_with(suffix)
            unpacked = [name for name in names if self._locations[name].member is None]
            names = unpacked or names
            if len(names) > 1:
                raise SourceError(
                    f"{self.folder}: {suffix} may be {' or '.join(names[:3])}; keep one of them"
                )
            if names:
                return names[0]
        raise SourceError(
            f"{self.folder}: there is no {suffixes[0]} in this folder or a zip archive in it"
        )

    def ending_with(self, suffix: str) -> list[str]:
        """Return all files whose path ends with these path components."""
        return self._by_suffix.get(suffix, [])

    def below(self, *folders: str) -> dict[str, str]:
        """Return the files below the first of `folders` that exists: relative path -> file.

        Folders are found at any depth and compared without case.
        """
        for folder in folders:
            names = {}
            for name in self._locations:
                relative = _below(name, folder)
                if relative:
                    names[relative] = name
            if names:
                return names
        return {}

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for reading, from the folder or from its archive."""
        location = self._locations[name]
        with ExitStack() as stack:
            if location.member is None:
                yield stack.enter_context(location.path.open("rb"))
            else:
                archive = stack.enter_context(zipfile.ZipFile(location.path))
                yield stack.enter_context(archive.open(location.member))

    def copy(self, name: str, target: Path) -> bool:
        """Copy a file atomically; an existing file of the same size is kept.

        Returns:
            Whether it was copied.

        Raises:
            SourceError: see `copy_all`.
        """
        if self._is_copied(name, target):
            return False
        self._require_space([(name, target)])
        self._copy_files([(name, target)])
        return True

    def copy_all(self, names: Iterable[tuple[str, Path]], title: str) -> int:
        """Copy many files in several threads, with a progress bar.

        Args:
            names: pairs of file and target.
            title: title of the progress bar.

        Returns:
            The number of files that were copied.

        Raises:
            SourceError: if an archive is damaged, a target exists with another size, or the files
                do not fit the free disk space.
        """
        pairs = [pair for pair in names if not self._is_copied(*pair)]
        self._require_space(pairs)
        tasks = [
            pairs[start : start + FILES_PER_TASK] for start in range(0, len(pairs), FILES_PER_TASK)
        ]
        with (
            tqdm(total=len(pairs), desc=title, unit="file", leave=False) as bar,
            ThreadPoolExecutor(NUM_THREADS) as pool,
        ):
            try:
                futures = [pool.submit(self._copy_files, task) for task in tasks]
                for future in as_completed(futures):
                    bar.update(future.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return len(pairs)

    def _is_copied(self, name: str, target: Path) -> bool:
        """Whether a target exists with the size of the file.

        Raises:
            SourceError: if it exists with another size: it is somebody's, and is not replaced.
        """
        if not os.path.lexists(target):
            return False
        size, actual = self._locations[name].size, target.stat().st_size if target.exists() else -1
        if actual == size and target.is_file():
            return True
        raise SourceError(
            f"{target}: it exists and is not the downloaded {name} of {size} bytes; move it away"
        )

    def _require_space(self, pairs: Sequence[tuple[str, Path]]) -> None:
        """Check that the files fit the free disk space.

        Raises:
            SourceError: with both sizes.
        """
        if not pairs:
            return
        needed = sum(self._locations[name].size for name, _ in pairs)
        folder = next(parent for parent in pairs[0][1].absolute().parents if parent.is_dir())
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise SourceError(
                f"{folder}: {len(pairs)} files of {needed / 1e9:.1f} GB in all do not fit the "
                f"{free / 1e9:.1f} GB that are free"
            )

    def _copy_files(self, pairs: Sequence[tuple[str, Path]]) -> int:
        """Copy files, opening each archive once; return their number."""
        archives: dict[Path, zipfile.ZipFile] = {}
        with ExitStack() as stack:
            for name, target in pairs:
                location = self._locations[name]
                try:
                    source: IO[bytes]
                    if location.member is None:
                        source = location.path.open("rb")
                    else:
                        if location.path not in archives:
                            archive = zipfile.ZipFile(location.path)
                            archives[location.path] = stack.enter_context(archive)
                        source = archives[location.path].open(location.member)
                    with source, open_replaced(target) as stream:
                        shutil.copyfileobj(source, stream, COPY_BUFFER_BYTES)
                except (zipfile.BadZipFile, EOFError, zlib.error) as error:
                    raise SourceError(
                        f"{location.path}: {name} is damaged ({cause_of(error)})"
                    ) from error
        return len(pairs)


def read_tar_members(archive: Path, limits: Mapping[str, int]) -> dict[str, bytes]:
    """Read files of a tar archive, compressed or not, into memory.

    Args:
        archive: the file.
        limits: names of members, and how many bytes each may have.

    Returns:
        The content by name, of those members that are there.

    Raises:
        SourceError: if the archive is damaged or has more than `MAX_MEMBERS` files, or a member is
            a link or a device, would leave the folder (PEP 706), or is larger than its limit.
    """
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as content:
            for count, entry in enumerate(content):
                if count >= MAX_MEMBERS:
                    raise SourceError(f"{archive}: more than {MAX_MEMBERS:,} files in one archive")
                if entry.name not in limits:
                    continue
                member = tarfile.data_filter(entry, os.curdir)
                stream = content.extractfile(member) if member.isreg() else None
                if stream is None:
                    raise SourceError(f"{archive}: {printable(member.name)} is no regular file")
                limit = limits[entry.name]
                if member.size > limit:
                    raise SourceError(
                        f"{archive}: {printable(member.name)} has {member.size:,} bytes, and at "
                        f"most {limit:,} are read"
                    )
                contents[entry.name] = stream.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise SourceError(f"{archive}: this tar archive is damaged ({cause_of(error)})") from error
    return contents


def _archive_sizes(archive: Path) -> dict[str, int]:
    """Return the files of an archive with their sizes in bytes."""
    try:
        with zipfile.ZipFile(archive) as content:
            if len(content.infolist()) > MAX_MEMBERS:
                raise SourceError(f"{archive}: more than {MAX_MEMBERS:,} files in one archive")
            return {
                entry.filename: entry.file_size
                for entry in content.infolist()
                if not entry.is_dir() and _is_regular(entry)
            }
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(f"{archive}: this zip archive is damaged ({cause_of(error)})") from error


def _below(name: str, folder: str) -> str:
    """Return the part of a path below the first occurrence of `folder`, "" if there is none."""
    parts, components = name.split("/"), [part.casefold() for part in folder.split("/")]
    folded = [part.casefold() for part in parts]
    for start in range(len(parts) - len(components)):
        if folded[start : start + len(components)] == components:
            return "/".join(parts[start + len(components) :])
    return ""


def _is_regular(entry: zipfile.ZipInfo) -> bool:
    """Whether a member is a plain file inside the archive's folder and not macOS metadata.

    Each component of its name has to be an ordinary one: not empty (`a//b` would become the
    absolute `/b` below `a`), no drive, no way up, no control characters.
    """
    kind = stat.S_IFMT(entry.external_attr >> 16)
    parts = entry.filename.split("/")
    return kind in (0, stat.S_IFREG) and all(
        part not in ("", ".", "..", "__MACOSX")
        and part.isprintable()
        and "\\" not in part
        and not (len(part) > 1 and part[1] == ":")
        for part in parts
    )
