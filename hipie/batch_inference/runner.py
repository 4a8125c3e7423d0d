"""One run: inputs are read ahead, segmented, recorded, and written in every format."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from hipie.batch_inference.formats.base import FORMAT_REGISTRY, ResultFormat
from hipie.batch_inference.inputs import (
    Input,
    InputImage,
    InputVideo,
    OutputNames,
    describe_input,
)
from hipie.batch_inference.progress import ProgressLines, RunProgress
from hipie.batch_inference.records import ImageRecord, to_result
from hipie.batch_inference.run_folder import ERRORS, STATE, RunFolder
from hipie.batch_inference.video import count_frames, read_frames
from hipie.data.image_io import ImageError, read_image
from hipie.data.io.reading_rules import pixel_limit, read_by, reading_rules
from hipie.error_report import bug_message, known_message
from hipie.errors import (
    HipieError,
    InputError,
    MissingFileError,
    UnexpectedError,
    UsageError,
)
from hipie.memory_check import ImageTooLargeError
from hipie.result_files import require_replaceable
from hipie.segmentation import Segmentation

# Images that are decoded before their turn.
READ_AHEAD = 2
# After so many bugs in a row, without any result, a run ends.
MAX_BUGS = 20
# Reasons why the outputs of one image, and not those of all, cannot be written.
_ERRORS_OF_NAMES = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR}

Segment = Callable[[NDArray[Any]], Segmentation]


@dataclass
class Summary:
    """Counts of a run.

    Attributes:
        done: images that were segmented.
        skipped: images that earlier runs had segmented.
        failed: images and videos that could not be read or segmented.
    """

    done: int = 0
    skipped: int = 0
    failed: int = 0


@dataclass(frozen=True)
class _Task:
    """An input in its turn: its pixels, the error of reading it, or neither if it is done.

    With `frames` it is the end of a video: so many have been read.
    """

    image: InputImage
    version: tuple[int, int] = (0, 0)
    pixels: NDArray[Any] | None = None
    error: Exception | None = None
    video: InputVideo | None = None
    frames: int = 0


def run(
    inputs: Sequence[Input],
    folder: RunFolder,
    formats: Sequence[ResultFormat],
    segment: Segment,
    *,
    strict: bool = False,
    overwrite: bool = False,
    max_pixels: int | None = None,
    progress: RunProgress | None = None,
    summary: Summary | None = None,
) -> Summary:
    """Segment the inputs that have no record yet, and write the results of all.

    Files that are missing for an image with a record are written from it. An input that cannot be
    read or segmented is a line in `errors.jsonl`, and is tried again by the next run.

    Args:
        inputs: see `find_inputs`.
        folder: of the results.
        formats: what is written.
        segment: from uint8 [H, W, 3] RGB to the result.
        strict: stop at the first input that fails.
        overwrite: replace files that this package did not write.
        max_pixels: larger images are not read; see `open_image`.
        progress: is told about every image.
        summary: counts into this object, which is complete after an exception, too.

    Returns:
        The counts.

    Raises:
        UsageError: if an output would replace an input or a file of the user.
        InputError: with `strict`, for the first input that fails; for class names or arguments that
            no image can be segmented with.
        MachineError, InputError: if results cannot be written.
    """
    names = OutputNames(
        inputs,
        folder.known_names(),
        _reserved_names(),
        {os.path.splitext(file)[1] for one in formats for file in one.files("x")},
    )
    _require_free_outputs(inputs, folder, formats, names, overwrite)
    folder.start_errors([one.file for one in inputs])
    one_run = _Run(folder, formats, segment, names, strict, summary or Summary())
    progress = progress or ProgressLines()
    progress.start(sum(count_frames(one) if isinstance(one, InputVideo) else 1 for one in inputs))
    limit = pixel_limit(max_pixels)
    try:
        # Formats read images again, and the thread that reads ahead has no context of its own.
        with read_by(replace(reading_rules(), max_pixels=limit)):
            with _read_ahead(_read_tasks(inputs, folder, limit)) as tasks:
                for task in tasks:
                    computed = one_run.process(task)
                    if task.video is None:
                        progress.advance(names[task.image], computed)
            for one in formats:
                one.finish(folder)
    finally:
        progress.stop()
    return one_run.summary


class _Run:
    """Processes the tasks of a run in turn."""

    def __init__(
        self,
        folder: RunFolder,
        formats: Sequence[ResultFormat],
        segment: Segment,
        names: OutputNames,
        strict: bool,
        summary: Summary,
    ) -> None:
        self.folder, self.formats, self.segment = folder, formats, segment
        self.names, self.strict, self.summary = names, strict, summary
        self._bugs = 0
        self._failed_sources: set[str] = set()

    def process(self, task: _Task) -> bool:
        """Segment or skip an image, and write what is missing; whether it was segmented."""
        source = task.image.source
        if task.error is not None:
            self._fail(task, task.error)
        elif task.video is not None:
            if source not in self._failed_sources:
                self.folder.add_video(source, task.video.every, task.version, task.frames)
        elif task.pixels is None:
            if self._write_missing(task):
                self.summary.skipped += 1
        else:
            return self._compute(task, task.pixels)
        return False

    def _compute(self, task: _Task, pixels: NDArray[Any]) -> bool:
        try:
            result = self.segment(pixels)
        except (ImageError, ImageTooLargeError, MissingFileError) as error:
            self._fail(task, error)
            return False
        except InputError:  # About class names or other arguments: no image can be segmented.
            raise
        except Exception as error:
            self._bugs += isinstance(error, UnexpectedError) or not isinstance(error, HipieError)
            if self._bugs >= MAX_BUGS:
                raise
            self._fail(task, error)
            return False
        self._bugs = 0
        image = task.image
        record = ImageRecord(
            self.names[image],
            image.source,
            task.version,
            to_result(result, image),
            image.image_id,
            pixels,
        )
        self.folder.add(record)
        if self._write(task, record, self.formats):
            self.summary.done += 1
        return True

    def _write_missing(self, task: _Task) -> bool:
        """Write the files that an image with a record does not have; whether that was possible."""
        name = self.names[task.image]
        missing = [
            one
            for one in self.formats
            if one.writes_to_stdout
            or not all((self.folder.path / file).exists() for file in one.files(name))
        ]
        if not missing:
            return True
        record = self.folder.record(task.image.source, task.image.frame)
        return self._write(task, replace(record, name=name), missing)

    def _write(self, task: _Task, record: ImageRecord, formats: Sequence[ResultFormat]) -> bool:
        try:
            for one in formats:
                one.write(self.folder, record)
        except HipieError as error:
            cause = error.__cause__
            about_image = isinstance(error, ImageError | MissingFileError) or (
                isinstance(cause, OSError) and cause.errno in _ERRORS_OF_NAMES
            )
            if not about_image:
                raise
            self._fail(task, error)
            return False
        return True

    def _fail(self, task: _Task, error: Exception) -> None:
        """Record that an input failed.

        Raises:
            InputError: if the run is strict.
        """
        message = known_message(error) or bug_message(error)
        self.summary.failed += 1
        self._failed_sources.add(task.image.source)
        self.folder.add_error(describe_input(task.image) | {"error": message})
        if self.strict:
            raise InputError(message) from error


def _read_tasks(inputs: Sequence[Input], folder: RunFolder, max_pixels: int) -> Iterator[_Task]:
    for one in inputs:
        image = InputImage(one.file) if isinstance(one, InputVideo) else one
        try:
            version = file_version(one.file)
        except Exception as error:  # noqa: BLE001 - reported for this input
            yield _Task(image, error=_as_missing(error, one.file))
            continue
        if isinstance(one, InputVideo):
            yield from _read_video(one, version, folder, max_pixels)
        elif folder.has(one.source, None, version):
            yield _Task(one, version)
        else:
            try:
                yield _Task(one, version, read_image(one.file, max_pixels))
            except Exception as error:  # noqa: BLE001 - reported for this input
                yield _Task(one, version, error=error)


def _read_video(
    video: InputVideo, version: tuple[int, int], folder: RunFolder, max_pixels: int
) -> Iterator[_Task]:
    done = folder.frames_of(video.source, video.every, version)
    if done is not None:
        yield from (_Task(InputImage(video.file, frame), version) for frame in done)
        return
    count = 0
    try:
        needed = lambda frame: not folder.has(video.source, frame, version)  # noqa: E731
        for frame, pixels in read_frames(video, needed, max_pixels):
            yield _Task(InputImage(video.file, frame), version, pixels)
            count += 1
    except Exception as error:  # noqa: BLE001 - reported for this input
        yield _Task(InputImage(video.file), version, error=error)
        return
    yield _Task(InputImage(video.file), version, video=video, frames=count)


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


class _read_ahead:
    """Iterate over tasks that a thread reads ahead; leaving the context ends the thread."""

    def __init__(self, tasks: Iterator[_Task]) -> None:
        self._tasks = tasks
        self._queue: queue.Queue[_Task | BaseException | None] = queue.Queue(READ_AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name="hipie-reader", daemon=True)

    def __enter__(self) -> Iterator[_Task]:
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

    def _iterate(self) -> Iterator[_Task]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


def _reserved_names() -> set[str]:
    """Return the names that no image may have: those of files and folders of the whole run.

    They are those of all formats, as results may be written in another one later.
    """
    files = {ERRORS, STATE}
    files.update(file for one in FORMAT_REGISTRY.values() for file in one.run_files)
    return {os.path.splitext(file)[0] for file in files}


def _require_free_outputs(
    inputs: Sequence[Input],
    folder: RunFolder,
    formats: Sequence[ResultFormat],
    names: OutputNames,
    overwrite: bool,
) -> None:
    """Check, before any work, that no output replaces an input or a file of the user.

    Raises:
        UsageError: naming the first one.
    """
    sources = {os.path.realpath(one.source) for one in inputs}
    done = folder.known_names()
    for one in inputs:
        for result_format in formats:
            if isinstance(one, InputVideo) or not (folder.is_new or result_format.is_recognised):
                continue
            for file in result_format.files(names[one]):
                path = folder.path / file
                if os.path.realpath(path) in sources:
                    raise UsageError(
                        f"the result {path} would overwrite the image {os.path.realpath(path)}; "
                        "name another --output"
                    )
                if one.source not in done:
                    require_replaceable(path, [], overwrite)
    for result_format in formats:
        recognised = result_format.recognised_run_files
        for file in result_format.run_files:
            path = folder.path / file
            is_recognised = path.suffix == ".json" if recognised is None else file in recognised
            if (folder.is_new or is_recognised) and not path.is_dir():
                require_replaceable(path, [], overwrite)
