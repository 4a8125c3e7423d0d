"""Inputs of a run: files, folders, patterns, lists of paths, images of a COCO file, and videos."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hipie.data.image_io import IMAGE_SUFFIXES
from hipie.data.io.fields import require_inside
from hipie.data.io.json_file import read_json
from hipie.data.io.regular_file import read_file
from hipie.errors import InputError, UsageError, cause_of, printable

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv")
)
_PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class InputImage:
    """An image that is read.

    Attributes:
        file: the image, or the video that it is a frame of, as the user wrote it.
        frame: position of the frame in the video, from 0; None for an image file.
        image_id: the id in the COCO file that lists the image.
    """

    file: str
    frame: int | None = None
    image_id: int | None = None

    @property
    def source(self) -> str:
        """The absolute path; links are not followed."""
        return os.path.abspath(self.file)


@dataclass(frozen=True)
class InputVideo:
    """A video, whose frames are read one by one.

    Attributes:
        file: the video, as the user wrote it.
        every: of this many frames the first one is read.
    """

    file: str
    every: int = 1

    @property
    def source(self) -> str:
        """The absolute path; links are not followed."""
        return os.path.abspath(self.file)


Input = InputImage | InputVideo


def find_inputs(
    arguments: Sequence[str],
    *,
    recursive: bool = False,
    every: int = 1,
    image_root: str = "",
    exclude: str = "",
) -> list[Input]:
    """List the images and videos of a command line, each file once.

    Args:
        arguments: image and video files; folders, whose images and videos are read; patterns with
            `*`, `?` and `[...]` (`**` for folders at any depth); `@FILE`, a text file with one of
            these a line; a COCO file (`.json`), of which `images` is read.
        recursive: read folders in folders, too. Links to folders are followed, each folder once.
        every: see `InputVideo`.
        image_root: folder of the file names of COCO files; by default that of the COCO file.
        exclude: a folder that is not read: that of the results.

    Returns:
        Inputs in the order of the arguments, sorted by name in each of them. A named file is listed
        whether it exists or not.

    Raises:
        UsageError: if there is nothing to read, or the results are written into a folder that is
            read.
        InputError: for a list or a COCO file that cannot be read.
    """
    finder = _Finder(recursive, every, image_root, exclude)
    inputs: dict[str, Input] = {}
    for argument in arguments:
        for one in finder.find(argument):
            inputs.setdefault(one.source, one)
    if not inputs:
        shown = ", ".join(printable(argument) for argument in arguments[:3])
        hint = "" if recursive else "; folders in folders are read with --recursive"
        raise UsageError(f"there is no image and no video in {shown}{hint}")
    return list(inputs.values())


def is_one_image(arguments: Sequence[str]) -> bool:
    """Whether a command line names one file that is read as an image, and nothing else."""
    if len(arguments) != 1:
        return False
    (name,) = arguments
    if os.path.isfile(name):
        return Path(name).suffix.lower() not in {".json", *VIDEO_SUFFIXES}
    return not (os.path.isdir(name) or name.startswith("@") or _PATTERN & set(name))


def is_input(argument: str) -> bool:
    """Whether an argument names a file, folder, list or pattern with at least one match."""
    if os.path.exists(argument) or os.path.exists(argument.removeprefix("@")):
        return True
    return bool(_PATTERN & set(argument)) and any(glob.iglob(argument, recursive=True))


class _Finder:
    def __init__(self, recursive: bool, every: int, image_root: str, exclude: str) -> None:
        self.recursive, self.every, self.image_root = recursive, every, image_root
        self.exclude = os.path.realpath(exclude) if exclude else ""

    def find(self, argument: str) -> Iterator[Input]:
        if argument.startswith("@") and not os.path.lexists(argument):
            for line in read_list(argument[1:]):
                yield from self._find_path(line)
        else:
            yield from self._find_path(argument)

    def _find_path(self, path: str) -> Iterator[Input]:
        if os.path.isdir(path):
            yield from self._walk(path)
        elif _PATTERN & set(path) and not os.path.lexists(path):
            for name in sorted(glob.glob(path, recursive=True)):
                if not os.path.isdir(name):
                    yield from self._match(name)
                elif self.recursive:
                    yield from self._walk(name)
        elif Path(path).suffix.lower() == ".json":
            yield from self._read_coco(path)
        else:
            yield self._file(path)

    def _match(self, path: str) -> Iterator[Input]:
        """Yield a file that a pattern or a folder has, if it is an image or a video by its name."""
        suffix = Path(path).suffix.lower()
        inside = self.exclude and Path(os.path.realpath(path)).is_relative_to(self.exclude)
        if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not inside:
            yield self._file(path)

    def _file(self, path: str) -> Input:
        if Path(path).suffix.lower() in VIDEO_SUFFIXES:
            return InputVideo(path, self.every)
        return InputImage(path)

    def _walk(self, folder: str) -> Iterator[Input]:
        """Yield images and videos of a folder, without hidden ones."""
        if os.path.realpath(folder) == self.exclude:
            raise UsageError(
                f"the results would be written into the folder that is read, {folder}; name "
                "another --output"
            )
        visited: set[tuple[int, int]] = set()
        folders = [folder]
        while folders:
            current = folders.pop()
            try:
                status = os.stat(current)
                names = sorted(os.listdir(current))
            except OSError as error:
                raise InputError(
                    f"{current}: the folder cannot be read ({cause_of(error)})"
                ) from error
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            below = []
            for name in names:
                path = os.path.join(current, name)
                if name.startswith("."):
                    continue
                if not os.path.isdir(path):
                    yield from self._match(path)
                elif self.recursive and os.path.realpath(path) != self.exclude:
                    below.append(path)
            folders.extend(reversed(below))

    def _read_coco(self, path: str) -> Iterator[Input]:
        root = self.image_root or os.path.dirname(path)
        for position, entry in enumerate(read_json(path, lists=["images"])["images"]):
            name = entry.get("file_name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name:
                raise InputError(f"{path}: image {position} has no file_name")
            require_inside(f"{path}: image {position}", "file_name", name)
            number = entry.get("id")
            valid = isinstance(number, int) and not isinstance(number, bool)
            yield InputImage(os.path.join(root, name), image_id=number if valid else None)


def read_list(path: str) -> list[str]:
    """Read a list of paths, one a line, without empty lines.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        text = read_file(path, "list").decode("utf-8-sig", "surrogateescape")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: the list cannot be read ({cause_of(error)})") from error
    if "\0" in text:
        raise InputError(f"{path}: this is not a text file with one path a line")
    return [line for line in text.splitlines() if line.strip()]


class OutputNames:
    """Assigns each input the name of its outputs, which mirrors the tree of the inputs.

    A name is the path of an input from the common folder of all, without its suffix. Where two
    inputs would have one name (in any case of letters), the later one keeps its suffix, or gets a
    number. Names of earlier runs stay.

    Args:
        inputs: all that are read.
        known: names by absolute path, of earlier runs.
        reserved: names that files and folders of the whole run have.
        suffixes: those of the outputs.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        known: dict[str, str],
        reserved: Iterable[str] = (),
        suffixes: Iterable[str] = (".json", ".png"),
    ) -> None:
        self.names: dict[str, str] = {}
        sources = [one.source for one in inputs]
        root = _common_folder({os.path.dirname(source) for source in sources})
        self._reserved = frozenset(map(_folded, reserved))
        self._used = {_folded(name) for name in (*self._reserved, *known.values())}
        self._folders = {_folded(name) for name in known.values() for name in _parents(name)}
        self._suffixes = tuple(suffixes)
        paths = {source: _relative(source, root) for source in sources if source not in known}
        for path in paths.values():
            self._folders.update(map(_folded, _parents(path)))
        videos = {one.source for one in inputs if isinstance(one, InputVideo)}
        for source in sources:
            self.names[source] = (
                known[source]
                if source in known
                else self._assign(PurePosixPath(paths[source]), source in videos)
            )

    def __getitem__(self, image: Input) -> str:
        name = self.names[image.source]
        if isinstance(image, InputImage) and image.frame is not None:
            return f"{name}/frame_{image.frame:06d}"
        return name

    def _assign(self, path: PurePosixPath, is_video: bool) -> str:
        first, *others = path.parts
        while others and _folded(first) in self._reserved:
            first += "_"
        path = PurePosixPath(first, *others)
        stem = str(path.with_suffix("")) if path.suffix else str(path)
        candidate, number = stem, 1
        while not self._is_free(candidate, is_video):
            candidate = str(path) if number == 1 else f"{path}_{number}"
            number += 1
        self._used.add(_folded(candidate))
        if is_video:
            self._folders.add(_folded(candidate))
        return candidate

    def _is_free(self, name: str, is_video: bool) -> bool:
        """Whether no other output and no folder has the name; that of a video is a folder's."""
        folded = _folded(name)
        if is_video and folded in self._folders:
            return False
        return folded not in self._used and not any(
            folded + suffix in self._folders for suffix in self._suffixes
        )


def _folded(name: str) -> str:
    """Fold the case and the composition of letters, which file systems may not distinguish."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _parents(name: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(name).parents if str(parent) != "."]


def _common_folder(folders: set[str]) -> str:
    try:
        return os.path.commonpath(folders)
    except ValueError:  # Folders of several drives.
        return ""


def _relative(source: str, root: str) -> str:
    """Return a path below a folder, with slashes; without the drive where the folder is ""."""
    path = os.path.relpath(source, root) if root else os.path.splitdrive(source)[1].lstrip("\\/")
    return path.replace(os.sep, "/")


def describe_input(image: InputImage) -> dict[str, Any]:
    """Return `file`, and `frame` of a video's frame, for messages and records."""
    return {"file": image.file} | ({} if image.frame is None else {"frame": image.frame})
