"""What a run keeps of its images: records, files and errors."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from hipie.batch_inference.formats.base import ResultFormat
from hipie.batch_inference.inputs import OutputNames, describe_input
from hipie.batch_inference.records import ImageRecord, to_result
from hipie.batch_inference.run_folder import ResultFolder, RunFolder
from hipie.batch_inference.tasks import Failure, Task
from hipie.data.image_io import ImageError
from hipie.error_report import bug_message, known_message
from hipie.errors import HipieError, InputError, MissingFileError
from hipie.segmentation import Segmentation

# After so many bugs in a row, without any result, a run ends.
MAX_BUGS = 20
# Images whose files may be unwritten while the next ones are segmented.
WRITE_BEHIND = 2
# Reasons why the outputs of one image, and not those of all, cannot be written.
_ERRORS_OF_NAMES = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR}

Segment = Callable[[NDArray[Any]], Segmentation]
"""Segments an image, uint8 [H, W, 3] RGB."""
OnError = Callable[[Any, HipieError], None]


@dataclass(frozen=True)
class BatchSegment:
    """A call that computes several images in a row together.

    Attributes:
        stream: from images and what is called with each that fails, and the error, in its turn, to
            the results of the others in order; see `Segmenter.stream`.
    """

    stream: Callable[[Iterable[NDArray[Any]], OnError], Iterator[Segmentation]]


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


class Recorder:
    """Keeps what the tasks of a run have given, and writes it.

    A thread writes the files of images while the next ones are segmented. What it could not write
    is reported in the thread of the run.
    """

    def __init__(
        self,
        folder: RunFolder,
        formats: Sequence[ResultFormat],
        names: OutputNames,
        strict: bool,
        summary: Summary,
    ) -> None:
        self.folder, self.formats, self.names = folder, formats, names
        self.strict, self.summary = strict, summary
        self._bugs = 0
        self._failed_sources: set[str] = set()
        self._writer = ThreadPoolExecutor(1, "hipie-writer")
        # Whether an image was segmented in this run; None for lines, which count nothing.
        self._pending: deque[tuple[Task | None, bool | None, Future[Failure | None]]] = deque()

    def close(self) -> None:
        """Wait until everything is written, and count it."""
        try:
            self.settle(0)
        finally:
            self._writer.shutdown(wait=True, cancel_futures=True)

    def skip(self, task: Task) -> None:
        """Process a task that needs no model: a failure, the end of a video, or a done image."""
        source = task.image.source
        if task.error is not None:
            self.settle(0)
            self.fail(task, task.error)
        elif task.video is not None:
            self.settle(0)
            if source not in self._failed_sources:
                self.folder.add_video(source, task.video.every, task.version, task.frames)
        else:
            self._write_missing(task)

    def compute(self, task: Task, pixels: NDArray[Any], segment: Segment) -> None:
        """Segment an image in this process, record the result and write it."""
        try:
            result = segment(pixels)
        except Exception as error:  # noqa: BLE001 - raised if every image has it
            self.fail_computing(task, error)
            return
        self.add_result(task, pixels, result)

    def add_result(self, task: Task, pixels: NDArray[Any], result: Segmentation) -> None:
        """Record the result of an image, and write its files."""
        record = self.record(task, to_result(result, task.image), pixels)
        self._submit(task, record, self.formats, computed=True)

    def fail_computing(self, task: Task, error: Exception) -> None:
        """Record that an image that was read could not be segmented.

        Raises:
            Exception: the error, if it ends the run; see `is_fatal`.
        """
        if self.is_fatal(Failure.from_error(error)):
            raise error
        self.fail(task, error)

    def is_fatal(self, failure: Failure) -> bool:
        """Whether a failure ends the run: one that every image has."""
        self._bugs += failure.kind == "bug"
        return failure.kind == "request" or self._bugs >= MAX_BUGS

    def record(
        self, task: Task, result: Mapping[str, Any], pixels: NDArray[Any] | None = None
    ) -> ImageRecord:
        """Append the record of an image."""
        self._bugs = 0
        image = task.image
        record = ImageRecord(
            self.names[image], image.source, task.version, result, image.image_id, pixels
        )
        self.folder.add(record)
        return record

    def write_record(self, task: Task) -> None:
        """Write the files of an image that has been segmented, from its record."""
        record = self.folder.record(task.image.source, task.image.frame)
        formats = [one for one in self.formats if not one.writes_to_stdout]
        self._submit(task, record, formats, computed=True)

    def print_lines(self, record: ImageRecord) -> None:
        """Write an image in the formats of the standard output, in its turn."""
        formats = [one for one in self.formats if one.writes_to_stdout]
        if formats:
            written = self._writer.submit(
                copy_context().run, write_files, self.folder, record, formats
            )
            self._pending.append((None, None, written))
            self.settle(WRITE_BEHIND)

    def _write_missing(self, task: Task) -> None:
        """Write the files that an image with a record does not have."""
        name = self.names[task.image]
        missing = [
            one
            for one in self.formats
            if one.writes_to_stdout
            or not all((self.folder.path / file).exists() for file in one.files(name))
        ]
        if missing:
            record = self.folder.record(task.image.source, task.image.frame)
            self._submit(task, replace(record, name=name), missing, computed=False)
        else:
            self.summary.skipped += 1

    def _submit(
        self, task: Task, record: ImageRecord, formats: Sequence[ResultFormat], *, computed: bool
    ) -> None:
        written = self._writer.submit(copy_context().run, write_files, self.folder, record, formats)
        self._pending.append((task, computed, written))
        self.settle(WRITE_BEHIND)

    def settle(self, limit: int) -> None:
        """Wait until the files of at most so many images are unwritten.

        Raises:
            HipieError: if results cannot be written.
        """
        while self._pending and (len(self._pending) > limit or self._pending[0][2].done()):
            task, computed, written = self._pending.popleft()
            failure = written.result()
            if task is not None and computed is not None:
                self.count_written(task, failure, computed=computed)

    def count_written(self, task: Task, failure: Failure | None, *, computed: bool) -> None:
        """Count an image whose files were written, or could not be."""
        if failure is not None:
            self.fail(task, failure.to_error())
        elif computed:
            self.summary.done += 1
        else:
            self.summary.skipped += 1

    def fail(self, task: Task, error: Exception) -> None:
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


def write_files(
    folder: ResultFolder, record: ImageRecord, formats: Sequence[ResultFormat]
) -> Failure | None:
    """Write the files of an image.

    Returns:
        Why those of this image cannot be written, if others' can.

    Raises:
        HipieError: if no files can be written.
    """
    try:
        for one in formats:
            one.write(folder, record)
    except HipieError as error:
        cause = error.__cause__
        about_image = isinstance(error, ImageError | MissingFileError) or (
            isinstance(cause, OSError) and cause.errno in _ERRORS_OF_NAMES
        )
        if not about_image:
            raise
        return Failure("image", str(error))
    return None
