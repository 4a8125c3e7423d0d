"""The actor that computes shards: it has a model, reads images ahead, and writes each shard.

A shard whose actor ended is computed again by another one, with care: the image in progress is
noted before each is segmented, and the image with which an actor ends again is a failure.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from numpy.typing import NDArray

from hipie.batch_inference.inputs import InputImage
from hipie.batch_inference.recorder import MAX_BUGS, Segment
from hipie.batch_inference.records import ImageRecord, to_result
from hipie.batch_inference.run_folder import STATE
from hipie.batch_inference.tasks import Failure
from hipie.data.image_io import ImageError, as_rgb, open_image_bytes, read_image
from hipie.distributed.output_folder import NumberedSource, ShardPlan
from hipie.distributed.shards import Shard, read_shard, shard_file
from hipie.distributed.sources import ImageSource, read_image_column
from hipie.distributed.storage import Storage
from hipie.errors import HipieError, UnexpectedError, UsageError

# Threads that read images of an actor, and images that they read ahead.
READERS, READ_AHEAD = 4, 8

Content = Mapping[str, Any]


@dataclass(frozen=True)
class ShardJob:
    """What is the same for all shards of a run.

    Attributes:
        build: builds the model in an actor; returns its call and what `describe` returns of it.
        content: what `build` said about the model before: `identity`, `settings`, `max_pixels`
            and `classes`, the kinds of all classes by name.
        output: location of the results.
        directory: from which relative paths lead.
        threads: of PyTorch on the CPU; 0 for PyTorch's default.
    """

    build: Callable[[], tuple[Segment, Content]]
    content: Content
    output: str
    directory: str
    threads: int


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard.

    Attributes:
        number: of the shard.
        done: images with a new result.
        errors: entries of errors.jsonl.
        failure: why the run cannot go on; the shard is not written then.
    """

    number: int
    done: int = 0
    errors: tuple[Mapping[str, Any], ...] = ()
    failure: Failure | None = None

    def to_json(self) -> str:
        """Return text that Ray passes on."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardReport:
        """Convert back."""
        content = json.loads(text)
        failure = content.pop("failure")
        return cls(
            content["number"],
            content["done"],
            tuple(content["errors"]),
            None if failure is None else Failure(**failure),
        )


def plan_to_json(plan: ShardPlan) -> str:
    """Return text that Ray passes on."""
    return json.dumps(asdict(plan))


def plan_from_json(text: str) -> ShardPlan:
    """Convert back from `plan_to_json`."""
    content = json.loads(text)
    images = []
    for one in content["images"]:
        source = ImageSource(**one["source"] | {"version": tuple(one["source"]["version"])})
        images.append(NumberedSource(one["number"], one["image_id"], source))
    return ShardPlan(content["number"], tuple(images), tuple(content["formats"]))


@dataclass(frozen=True)
class BuildFailure:
    """Why a model cannot be built, in a form that processes can exchange."""

    failure: Failure
    is_usage: bool

    def to_error(self) -> HipieError:
        """Return an exception with the message."""
        if not self.is_usage:
            return self.failure.to_error()
        error = UsageError(self.failure.message)
        words = self.failure.command_line
        return error.on_command_line(words) if words else error


def describe(
    build: Callable[[], tuple[Segment, Content]], directory: str, threads: int
) -> Content | BuildFailure:
    """Build the model where actors will, and return what there is to know about it."""
    try:
        _prepare_process(directory, threads)
        return build()[1]
    except Exception as error:  # noqa: BLE001 - raised where the run is
        return BuildFailure(Failure.from_error(error), isinstance(error, UsageError))


def _prepare_process(directory: str, threads: int) -> None:
    import torch

    with suppress(OSError):  # On other machines there may be no such folder.
        os.chdir(directory)
    if threads:
        torch.set_num_threads(threads)


class ShardWorker:
    """Computes shards with one model; the class that Ray Data makes actors of.

    Args:
        job: what is the same for all shards.
    """

    def __init__(self, job: ShardJob) -> None:
        self._job = job
        self._storage = Storage(job.output)
        self._class_ids = {name: n for n, name in enumerate(job.content["classes"], 1)}
        self._bugs = 0
        self._failure: Failure | None = None
        try:
            _prepare_process(job.directory, job.threads)
            self._segment, content = job.build()
            self._require_same_model(content)
        except Exception as error:  # noqa: BLE001 - raised where the run is
            self._failure = Failure.from_error(error)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Compute the shard of a row's `plan`, and return its `report`."""
        plan = plan_from_json(row["plan"])
        try:
            report = self.compute(plan)
        except Exception as error:  # noqa: BLE001 - raised where the run is
            report = ShardReport(plan.number, failure=Failure.from_error(error))
        return {"report": report.to_json()}

    def compute(self, plan: ShardPlan) -> ShardReport:
        """Compute a shard, and write it unless every image would fail as its first one does.

        Raises:
            HipieError: if the shard cannot be read or written.
        """
        if self._failure is not None:
            return ShardReport(plan.number, failure=self._failure)
        attempt = _Attempt(self._storage, plan.number)
        shard = read_shard(self._storage, plan.number)
        # An actor that ended after it had written the shard leaves nothing to do.
        todo = [one for one in plan.images if shard.versions.get(one.number) != one.source.version]
        for one in todo:
            shard.remove(one.number)
        for image in [one for one in todo if one.number in attempt.blamed]:
            message = f"{image.source.file}: the processes that segmented it have ended"
            shard.errors[image.number] = {"file": image.source.file, "error": message}
        left = [one for one in todo if one.number not in attempt.blamed]
        for image, pixels in self._read(left, attempt):
            failure = self._process(shard, image, pixels)
            if failure is not None:
                return ShardReport(plan.number, failure=failure)
        self._write(plan, shard)
        attempt.end()
        errors = tuple(shard.errors[one.number] for one in todo if one.number in shard.errors)
        return ShardReport(plan.number, len(plan.images) - len(errors), errors)

    def _require_same_model(self, content: Content) -> None:
        if json.dumps(content["identity"]) != json.dumps(self._job.content["identity"]):
            raise UnexpectedError(
                "the machines have built models with different weights or configurations; load "
                "weights from one file, and install one version everywhere"
            )
        if self._storage.is_local:
            state = f"{self._storage.path}/{STATE}/settings.json"
            if not os.path.isfile(state):
                raise UnexpectedError(
                    f"{self._job.output}: a machine of the cluster does not have this folder; name "
                    "one that all machines share, or an address such as s3://BUCKET/FOLDER"
                )

    def _process(
        self, shard: Shard, image: NumberedSource, pixels: NDArray[Any] | Exception
    ) -> Failure | None:
        """Add what became of an image to the shard, and return what ends the run."""
        source = image.source
        try:
            if isinstance(pixels, Exception):
                raise pixels
            result = to_result(self._segment(pixels), InputImage(source.file))
            record = ImageRecord(
                source.file, source.source, source.version, result, source.image_id
            )
            shard.add(image.number, image.image_id, record, self._class_ids)
            self._bugs = 0
        except Exception as error:  # noqa: BLE001 - reported for this image, or ends the run
            failure = Failure.from_error(error)
            self._bugs += failure.kind == "bug"
            is_read = not isinstance(pixels, Exception)
            if is_read and (failure.kind == "request" or self._bugs >= MAX_BUGS):
                return failure
            shard.errors[image.number] = {"file": source.file, "error": failure.message}
        return None

    def _write(self, plan: ShardPlan, shard: Shard) -> None:
        """Write the shard; its Parquet file comes last, as it says what is done."""
        classes, settings = self._job.content["classes"], self._job.content["settings"]
        contents = {"coco": shard.to_coco, "parquet": shard.to_parquet}
        for name, content in contents.items():
            if name in plan.formats:
                path = self._storage.join(shard_file(name, plan.number))
                self._storage.write(path, content(classes, settings))

    def _read(
        self, images: Sequence[NumberedSource], attempt: _Attempt
    ) -> Iterator[tuple[NumberedSource, NDArray[Any] | Exception]]:
        """Read images in order, some ahead; after an actor ended one by one."""
        encoded = _read_parquet_rows(images)
        max_pixels = self._job.content["max_pixels"]

        def read(image: NumberedSource) -> NDArray[Any] | Exception:
            try:
                return _read_source(image.source, encoded.get(image.number), max_pixels)
            except Exception as error:  # noqa: BLE001 - reported for this image
                return error

        if attempt.is_repeated:
            for image in images:
                attempt.note(image.number)
                yield image, read(image)
            return
        pending: deque[tuple[NumberedSource, Future[NDArray[Any] | Exception]]] = deque()
        with ThreadPoolExecutor(READERS, "hipie-reader") as pool:
            try:
                for image in images:
                    pending.append((image, pool.submit(read, image)))
                    if len(pending) > READ_AHEAD:
                        first, pixels = pending.popleft()
                        yield first, pixels.result()
                while pending:
                    first, pixels = pending.popleft()
                    yield first, pixels.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


class _Attempt:
    """The note about a shard in progress, by which an actor knows that another one ended.

    Attributes:
        is_repeated: whether an actor has ended with the shard.
        blamed: numbers of the images with which actors have ended when they took care.
    """

    def __init__(self, storage: Storage, number: int) -> None:
        self._storage = storage
        self._path = storage.join(f"{STATE}/attempts/part-{number:06d}.json")
        data = storage.read_if_exists(self._path)
        self.is_repeated = data is not None
        self.blamed: set[int] = set()
        if data is not None:
            note = json.loads(data)
            self.blamed = {*note["blamed"], *([] if note["image"] is None else [note["image"]])}
        self.note(None)

    def note(self, number: int | None) -> None:
        """Write which image comes now."""
        note = {"image": number, "blamed": sorted(self.blamed)}
        self._storage.write(self._path, json.dumps(note).encode())

    def end(self) -> None:
        """Remove the note: the shard is written."""
        self._storage.delete(self._path)


@cache
def _storage(root: str) -> Storage:
    return Storage(root)


def _read_source(
    source: ImageSource, data: bytes | Exception | None, max_pixels: int
) -> NDArray[Any]:
    """Read an image as uint8 RGB [H, W, 3]; `data` are the bytes of a row."""
    if isinstance(data, Exception):
        raise data
    if source.row is None and not source.root:
        return read_image(source.path, max_pixels)
    if source.row is None:
        data = _storage(source.root).read(source.path, "image")
    if not data:
        raise ImageError(f"{source.file}: the row has no image")
    with open_image_bytes(data, source.file, max_pixels=max_pixels) as image:
        return as_rgb(image)


def _read_parquet_rows(images: Sequence[NumberedSource]) -> dict[int, bytes | Exception | None]:
    """Read the encoded images that are rows of Parquet files, file by file, by number."""
    files: dict[tuple[str, str], list[NumberedSource]] = {}
    for image in images:
        if image.source.row is not None:
            files.setdefault((image.source.root, image.source.path), []).append(image)
    encoded: dict[int, bytes | Exception | None] = {}
    for (root, path), rows in files.items():
        rows.sort(key=lambda image: image.source.row or 0)
        numbers = [image.source.row or 0 for image in rows]
        values: Sequence[bytes | Exception | None]
        try:
            values = read_image_column(_storage(root or path), path, numbers)
        except Exception as error:  # noqa: BLE001 - reported for each of the images
            values = [error] * len(rows)
        encoded.update(zip((image.number for image in rows), values, strict=True))
    return encoded
