"""One run: inputs are read ahead, segmented, recorded, and written in every format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from hipie.batch_inference.formats.base import FORMAT_REGISTRY, ResultFormat
from hipie.batch_inference.inputs import Input, InputVideo, OutputNames
from hipie.batch_inference.progress import ProgressLines, RunProgress
from hipie.batch_inference.recorder import Recorder, Segment, Summary
from hipie.batch_inference.run_folder import ERRORS, STATE, RunFolder
from hipie.batch_inference.tasks import read_ahead, read_tasks
from hipie.batch_inference.video import count_frames
from hipie.batch_inference.workers import WorkerPool
from hipie.data.io.reading_rules import pixel_limit, read_by, reading_rules
from hipie.errors import UsageError
from hipie.result_files import require_replaceable


def run(
    inputs: Sequence[Input],
    folder: RunFolder,
    formats: Sequence[ResultFormat],
    segment: Segment | WorkerPool,
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
        segment: from uint8 [H, W, 3] RGB to the result; or the processes that share the images.
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
    segment: Segment,
    max_pixels: int,
    progress: RunProgress,
) -> None:
    """Segment images in this process, while threads read the next and write the last ones."""
    with closing(recorder), read_ahead(read_tasks(inputs, recorder.folder, max_pixels)) as tasks:
        for task in tasks:
            if task.pixels is None:
                recorder.skip(task)
            else:
                recorder.compute(task, task.pixels, segment)
            if task.video is None:
                progress.advance(recorder.names[task.image], task.is_needed)


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
