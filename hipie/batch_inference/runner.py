"""One run: inputs are read ahead, segmented, recorded, and written in every format."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from hipie.batch_inference.formats.base import FORMAT_REGISTRY, ResultFormat
from hipie.batch_inference.inputs import Input, InputVideo, OutputNames
from hipie.batch_inference.progress import ProgressLines, RunProgress
from hipie.batch_inference.recorder import BatchSegment, Recorder, Segment, Summary
from hipie.batch_inference.run_folder import ERRORS, STATE, RunFolder
from hipie.batch_inference.tasks import Task, read_ahead, read_tasks
from hipie.batch_inference.video import count_frames
from hipie.batch_inference.workers import WorkerPool
from hipie.data.io.reading_rules import pixel_limit, read_by, reading_rules
from hipie.errors import HipieError, UsageError
from hipie.result_files import require_replaceable


def run(
    inputs: Sequence[Input],
    folder: RunFolder,
    formats: Sequence[ResultFormat],
    segment: Segment | BatchSegment | WorkerPool,
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
        segment: from uint8 [H, W, 3] RGB to the result; or a call that computes several images
            together; or the processes that share the images.
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
    recorder = Recorder(folder, formats, names, strict, summary or Summary())
    progress = progress or ProgressLines()
    progress.start(sum(count_frames(one) if isinstance(one, InputVideo) else 1 for one in inputs))
    limit = pixel_limit(max_pixels)
    try:
        # Formats read images again.
        with read_by(replace(reading_rules(), max_pixels=limit)):
            if isinstance(segment, WorkerPool):
                segment.process(inputs, recorder, limit, progress)
            else:
                _process(inputs, recorder, segment, limit, progress)
            for one in formats:
                one.finish(folder)
    finally:
        progress.stop()
    return recorder.summary


def _process(
    inputs: Sequence[Input],
    recorder: Recorder,
    segment: Segment | BatchSegment,
    max_pixels: int,
    progress: RunProgress,
) -> None:
    """Segment images in this process, while threads read the next and write the last ones."""
    with closing(recorder), read_ahead(read_tasks(inputs, recorder.folder, max_pixels)) as tasks:
        if isinstance(segment, BatchSegment):
            _Batches(recorder, progress).process(tasks, segment)
            return
        for task in tasks:
            if task.pixels is None:
                recorder.skip(task)
            else:
                recorder.compute(task, task.pixels, segment)
            _advance(task, recorder, progress)


def _advance(task: Task, recorder: Recorder, progress: RunProgress) -> None:
    if task.video is None:
        progress.advance(recorder.names[task.image], task.is_needed)


class _Batches:
    """Gives the images of a run to a call that takes several ahead, and settles all in order."""

    def __init__(self, recorder: Recorder, progress: RunProgress) -> None:
        self._recorder, self._progress = recorder, progress
        self._taken: deque[Task] = deque()

    def process(self, tasks: Iterator[Task], segment: BatchSegment) -> None:
        """Segment the images of tasks."""
        for result in segment.stream(self._pixels(tasks), self._fail):
            task, pixels = self._settle()
            self._recorder.add_result(task, pixels, result)
            _advance(task, self._recorder, self._progress)
        self._skip()

    def _pixels(self, tasks: Iterator[Task]) -> Iterator[NDArray[Any]]:
        for task in tasks:
            self._taken.append(task)
            if task.pixels is not None:
                yield task.pixels

    def _settle(self) -> tuple[Task, NDArray[Any]]:
        """Return the next image that the call was given, after what needs no model before it."""
        self._skip()
        task = self._taken.popleft()
        assert task.pixels is not None
        return task, task.pixels

    def _skip(self) -> None:
        while self._taken and self._taken[0].pixels is None:
            task = self._taken.popleft()
            self._recorder.skip(task)
            _advance(task, self._recorder, self._progress)

    def _fail(self, _: Any, error: HipieError) -> None:
        task, _ = self._settle()
        self._recorder.fail_computing(task, error)
        _advance(task, self._recorder, self._progress)


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
