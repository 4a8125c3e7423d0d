"""A process that segments images for a `WorkerPool`.

It gets jobs and write orders through a pipe, and answers with what became of them. One thread
receives, one reads images, one writes files; the main thread runs the model. When the pipe closes,
because the process of the pool has ended in whatever way, the process ends at once.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from numpy.typing import NDArray

from hipie.batch_inference.formats.base import FORMAT_REGISTRY, ResultFormat, build_formats
from hipie.batch_inference.inputs import InputImage
from hipie.batch_inference.recorder import Segment, write_files
from hipie.batch_inference.records import ImageRecord, to_result
from hipie.batch_inference.run_folder import ResultFolder
from hipie.batch_inference.tasks import Failure
from hipie.data.image_io import read_image
from hipie.data.io.reading_rules import read_by, reading_rules
from hipie.errors import UsageError

BuildSegment = Callable[[], tuple[Segment, Mapping[str, Any]]]
"""Builds the model in a process, and returns its call and what the pool has to know about it."""


@dataclass(frozen=True)
class Job:
    """An image that a process segments.

    Attributes:
        number: of the job.
        image: the input.
        pixels: [H, W, 3] uint8 RGB; None if the process reads the image.
    """

    number: int
    image: InputImage
    pixels: NDArray[Any] | None = None


@dataclass(frozen=True)
class Start:
    """A run begins: what is the same for all its jobs.

    Attributes:
        first_number: of its jobs; what is left of those before it is discarded.
        directory: the working directory, from which relative paths lead.
        path: folder of results.
        settings: of result files.
        formats: names of the formats of files.
        max_pixels: larger images are not read.
    """

    first_number: int
    directory: str
    path: str
    settings: Mapping[str, Any]
    formats: tuple[str, ...]
    max_pixels: int


@dataclass(frozen=True)
class WriteOrder:
    """Files that a process has to write of a job whose record is stored."""

    number: int
    name: str
    version: tuple[int, int]
    classes: Mapping[str, str]


@dataclass(frozen=True)
class Ready:
    """The model is built: what `BuildSegment` says about it, or why it cannot be built."""

    content: Mapping[str, Any]
    failure: Failure | None = None
    is_usage: bool = False


@dataclass(frozen=True)
class Result:
    """What became of a job: `Segmentation.to_dict` without settings, or a failure."""

    number: int
    result: Mapping[str, Any] | None
    failure: Failure | None = None
    is_read: bool = True


@dataclass(frozen=True)
class Written:
    """What became of a write order; `is_fatal` if no files can be written."""

    number: int
    failure: Failure | None = None
    is_fatal: bool = False


def work(connection: Connection, build: BuildSegment, rank: int, threads: int) -> None:
    """Main function of a process; see the module.

    Args:
        connection: to the pool.
        build: builds the model.
        rank: number of the process; of several GPUs it uses that with the number modulo theirs.
        threads: of PyTorch; 0 for PyTorch's default.
    """
    if threads:
        torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(rank % torch.cuda.device_count())
    _Worker(connection).run(build)
    # Threads of libraries must not keep a process whose work is done.
    os._exit(0)


class _Worker:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._jobs: queue.Queue[Start | Job | None] = queue.Queue()
        self._read: queue.Queue[tuple[Job, NDArray[Any] | Exception] | None] = queue.Queue(1)
        self._orders: queue.Queue[Start | WriteOrder | None] = queue.Queue()
        self._unwritten: dict[int, tuple[Mapping[str, Any], NDArray[Any], str]] = {}

    def run(self, build: BuildSegment) -> None:
        threading.Thread(target=self._receive, daemon=True).start()
        try:
            segment, content = build()
        except Exception as error:  # noqa: BLE001 - raised by the pool
            self._send(Ready({}, Failure.from_error(error), isinstance(error, UsageError)))
            return
        self._send(Ready(content))
        threading.Thread(target=self._read_images, daemon=True).start()
        writer = threading.Thread(target=self._write, daemon=True)
        writer.start()
        while (entry := self._read.get()) is not None:
            self._compute(*entry, segment)
        writer.join()

    def _send(self, message: Any) -> None:
        try:
            with self._sending:
                self._connection.send(message)
        except OSError:  # the pool has ended
            os._exit(1)

    def _receive(self) -> None:
        try:
            while (message := self._connection.recv()) is not None:
                if isinstance(message, Start):
                    os.chdir(message.directory)
                if isinstance(message, Start | Job):
                    self._jobs.put(message)
                if isinstance(message, Start | WriteOrder):
                    self._orders.put(message)
        except (EOFError, OSError):
            os._exit(1)
        self._jobs.put(None)
        self._orders.put(None)

    def _read_images(self) -> None:
        max_pixels = 0
        while (job := self._jobs.get()) is not None:
            if isinstance(job, Start):
                max_pixels = job.max_pixels
                continue
            pixels: NDArray[Any] | Exception
            try:
                given = job.pixels
                pixels = read_image(job.image.file, max_pixels) if given is None else given
            except Exception as error:  # noqa: BLE001 - reported for this image
                pixels = error
            self._read.put((job, pixels))
        self._read.put(None)

    def _compute(self, job: Job, pixels: NDArray[Any] | Exception, segment: Segment) -> None:
        if isinstance(pixels, Exception):
            failure = Failure.from_error(pixels)
            self._send(Result(job.number, None, failure, is_read=False))
            return
        try:
            result = to_result(segment(pixels), job.image)
        except Exception as error:  # noqa: BLE001 - reported for this image, or raised by the pool
            self._send(Result(job.number, None, Failure.from_error(error)))
            return
        self._unwritten[job.number] = (result, pixels, job.image.source)
        self._send(Result(job.number, result))

    def _write(self) -> None:
        start: Start | None = None
        formats: list[ResultFormat] = []
        while (order := self._orders.get()) is not None:
            if isinstance(order, Start):
                start = order
                formats = build_formats(start.formats) if start.formats else []
                for number in [one for one in list(self._unwritten) if one < start.first_number]:
                    self._unwritten.pop(number, None)
                continue
            assert start is not None
            result, pixels, source = self._unwritten.pop(order.number)
            folder = ResultFolder(start.path, start.settings, order.classes)
            record = ImageRecord(order.name, source, order.version, result, None, pixels)
            try:
                with read_by(replace(reading_rules(), max_pixels=start.max_pixels)):
                    answer = Written(order.number, write_files(folder, record, formats))
            except Exception as error:  # noqa: BLE001 - raised by the pool
                answer = Written(order.number, Failure.from_error(error), is_fatal=True)
            self._send(answer)


def format_names(formats: Sequence[ResultFormat]) -> tuple[str, ...]:
    """Return the names under which formats are registered, without those of the standard output."""
    names = {registered: name for name, registered in FORMAT_REGISTRY.items()}
    return tuple(names[type(one)] for one in formats if not one.writes_to_stdout)
