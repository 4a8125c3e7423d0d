"""Tasks of a run: its inputs in their order, read ahead by a thread."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from hipie.batch_inference.inputs import Input, InputImage, InputVideo
from hipie.batch_inference.run_folder import RunFolder
from hipie.batch_inference.video import read_frames
from hipie.data.image_io import ImageError, read_image
from hipie.error_report import bug_message, known_message
from hipie.errors import HipieError, InputError, MissingFileError, UnexpectedError
from hipie.memory_check import ImageTooLargeError

# Images that are decoded before their turn.
READ_AHEAD = 2


@dataclass(frozen=True)
class Task:
    """An input in its turn: its pixels, the error of reading it, or neither if it is done.

    Attributes:
        image: the input.
        version: see `file_version`.
        pixels: [H, W, 3] uint8 RGB.
        error: why the input cannot be read.
        is_unread: the process that segments the image reads it.
        video: the task is the end of this video.
        frames: that many have been read of it.
    """

    image: InputImage
    version: tuple[int, int] = (0, 0)
    pixels: NDArray[Any] | None = None
    error: Exception | None = None
    is_unread: bool = False
    video: InputVideo | None = None
    frames: int = 0

    @property
    def is_needed(self) -> bool:
        """Whether the image has to be segmented."""
        return self.is_unread or self.pixels is not None


@dataclass(frozen=True)
class Failure:
    """Why an image has no result, in a form that processes can exchange.

    Attributes:
        kind: "image" for a reason in the image; "request" for one in the class names or arguments,
            for which every image would fail; "bug".
        message: one sentence.
        command_line: the sentence with the flags of the command line, where it differs.
    """

    kind: str
    message: str
    command_line: str = ""

    @classmethod
    def from_error(cls, error: Exception) -> Failure:
        """Describe an exception; of a bug the traceback goes into the log."""
        message = known_message(error) or bug_message(error)
        if isinstance(error, ImageError | ImageTooLargeError | MissingFileError):
            kind = "image"
        elif isinstance(error, InputError):
            kind = "request"
        else:
            is_bug = isinstance(error, UnexpectedError) or not isinstance(error, HipieError)
            kind = "bug" if is_bug else "image"
        return cls(kind, message, getattr(error, "command_line", ""))

    def to_error(self) -> HipieError:
        """Return an exception with the message."""
        if self.kind == "bug":
            return UnexpectedError(self.message)
        error = InputError(self.message)
        return error.on_command_line(self.command_line) if self.command_line else error


def read_tasks(
    inputs: Sequence[Input], folder: RunFolder, max_pixels: int | None = None, decode: bool = True
) -> Iterator[Task]:
    """Read the inputs of a run one after another.

    Args:
        inputs: see `find_inputs`.
        folder: images with a record in it are not read.
        max_pixels: larger images are not read.
        decode: read image files; otherwise their tasks are unread. Frames are always read.

    Yields:
        A task an image or frame, and one behind the frames of a video.
    """
    for one in inputs:
        image = InputImage(one.file) if isinstance(one, InputVideo) else one
        try:
            version = file_version(one.file)
        except Exception as error:  # noqa: BLE001 - reported for this input
            yield Task(image, error=_as_missing(error, one.file))
            continue
        if isinstance(one, InputVideo):
            yield from _read_video(one, version, folder, max_pixels)
        elif folder.has(one.source, None, version):
            yield Task(one, version)
        elif not decode:
            yield Task(one, version, is_unread=True)
        else:
            try:
                yield Task(one, version, read_image(one.file, max_pixels))
            except Exception as error:  # noqa: BLE001 - reported for this input
                yield Task(one, version, error=error)


def _read_video(
    video: InputVideo, version: tuple[int, int], folder: RunFolder, max_pixels: int | None
) -> Iterator[Task]:
    done = folder.frames_of(video.source, video.every, version)
    if done is not None:
        yield from (Task(InputImage(video.file, frame), version) for frame in done)
        return
    count = 0
    try:
        needed = lambda frame: not folder.has(video.source, frame, version)  # noqa: E731
        for frame, pixels in read_frames(video, needed, max_pixels):
            yield Task(InputImage(video.file, frame), version, pixels)
            count += 1
    except Exception as error:  # noqa: BLE001 - reported for this input
        yield Task(InputImage(video.file), version, error=error)
        return
    yield Task(InputImage(video.file), version, video=video, frames=count)


def file_version(path: str) -> tuple[int, int]:
    """Return size in bytes and time of change in nanoseconds of a file.

    Raises:
        OSError, ValueError: if there is no such file.
    """
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _as_missing(error: Exception, path: str) -> Exception:
    if isinstance(error, FileNotFoundError):
        return MissingFileError(f"{path}: there is no such image")
    return error


class read_ahead:
    """Iterate over tasks that a thread reads ahead; leaving the context ends the thread."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks
        self._queue: queue.Queue[Task | BaseException | None] = queue.Queue(READ_AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name="hipie-reader", daemon=True)

    def __enter__(self) -> Iterator[Task]:
        self._thread.start()
        return self._iterate()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def _read(self) -> None:
        try:
            for task in self._tasks:
                self._queue.put(task)
                if self._stopped.is_set():
                    return
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the run
            self._queue.put(error)

    def _iterate(self) -> Iterator[Task]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
