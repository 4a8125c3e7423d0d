"""The folder of results of a cluster: settings, the list of inputs, and shards.

    OUTPUT/.hipie/settings.json        what results depend on
    OUTPUT/.hipie/inputs.parquet       inputs in the order of their numbers, which never change
    OUTPUT/.hipie/attempts/            shards that are being computed
    OUTPUT/parquet/part-000000.parquet
    OUTPUT/coco/part-000000.json
    OUTPUT/errors.jsonl

The image with number n belongs to the shard n // `images_per_shard`, always.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from filelock import FileLock, Timeout

from hipie.batch_inference.run_folder import ERRORS, STATE, require_same_settings
from hipie.distributed.shards import ShardState, read_shard_state, shard_number
from hipie.distributed.sources import ImageSource
from hipie.distributed.storage import Storage, to_parquet_bytes
from hipie.errors import InputError, MachineError, UsageError, cause_of

IMAGES_PER_SHARD = 64
FORMATS = ("parquet", "coco")
# Shards whose state is read at a time.
_READERS = 16
_SETTINGS, _INPUTS, _ATTEMPTS = (
    f"{STATE}/{n}" for n in ("settings.json", "inputs.parquet", "attempts")
)


@dataclass(frozen=True)
class NumberedSource:
    """An image with its number in the folder, and the id that results have."""

    number: int
    image_id: int
    source: ImageSource


@dataclass(frozen=True)
class ShardPlan:
    """A shard that is not complete.

    Attributes:
        number: of the shard.
        images: those that have no result yet.
        formats: in which it is written.
    """

    number: int
    images: tuple[NumberedSource, ...]
    formats: tuple[str, ...]


class OutputFolder:
    """The folder of results, which one run at a time may use.

    A second run is refused if the folder is on a disk. Object stores have no locks; two runs into
    one of their folders write the same shards if they read the same images.

    Args:
        location: see `Storage`; every machine of the cluster has to reach it.
        identity: what results depend on; a folder with results of others is refused.
        images_per_shard: of a new folder; one with results keeps its own.
        overwrite: discard the results of earlier runs.

    Raises:
        UsageError: if another process writes into the folder, or it has results of other settings.
        HipieError: if it cannot be read or written.
    """

    def __init__(
        self,
        location: str,
        identity: Mapping[str, Any],
        *,
        images_per_shard: int = IMAGES_PER_SHARD,
        overwrite: bool = False,
    ) -> None:
        self.storage = Storage(location)
        self._lock = _lock(self.storage.path) if self.storage.is_local else None
        self._numbers: dict[bytes, int] = {}
        self._ids: list[int] = []
        try:
            self._open(json.loads(json.dumps(identity)), images_per_shard, overwrite)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder."""
        if self._lock is not None:
            self._lock.release()

    def _open(self, identity: dict[str, Any], images_per_shard: int, overwrite: bool) -> None:
        storage = self.storage
        if overwrite:
            for name in (*FORMATS, ERRORS, _SETTINGS, _INPUTS):
                storage.delete(storage.join(name))
        storage.delete(storage.join(_ATTEMPTS))
        file = storage.join(_SETTINGS)
        data = storage.read_if_exists(file)
        if data is None:
            self.images_per_shard = images_per_shard
            content = {"images_per_shard": images_per_shard, "identity": identity}
            storage.write(file, json.dumps(content, indent=1).encode())
        else:
            self.images_per_shard, before = _read_settings(storage.address(file), data)
            require_same_settings(storage.location, before, identity)
        self._read_inputs()

    def plan(
        self, sources: Sequence[ImageSource], formats: Sequence[str] = ("parquet",)
    ) -> tuple[list[ShardPlan], int]:
        """List the shards that are not complete.

        New images get numbers behind those of earlier runs. Images that have changed, or had an
        error, are computed again.

        Args:
            sources: see `find_sources`.
            formats: of `FORMATS`; Parquet is always written, as it says what is done.

        Returns:
            The shards, and how many images have a result.

        Raises:
            HipieError: if the folder cannot be read or written.
        """
        by_shard: dict[int, list[NumberedSource]] = defaultdict(list)
        for image in self._number(sources):
            by_shard[image.number // self.images_per_shard].append(image)
        present = {name: self._present(name) for name in FORMATS}
        existing = [number for number in sorted(by_shard) if number in present["parquet"]]
        with ThreadPoolExecutor(_READERS) as pool:
            states = dict(zip(existing, pool.map(self._state, existing), strict=True))
        plans, done = [], 0
        for number, images in sorted(by_shard.items()):
            versions = states[number].versions if number in states else {}
            todo = tuple(one for one in images if versions.get(one.number) != one.source.version)
            done += len(images) - len(todo)
            requested = [name for name in FORMATS if name in (*formats, "parquet")]
            missing = any(number not in present[name] for name in requested)
            if todo or missing:
                written = (*requested, *(n for n in FORMATS if number in present[n]))
                plans.append(ShardPlan(number, todo, tuple(dict.fromkeys(written))))
        return plans, done

    def write_errors(self, tried: Iterable[str], errors: Iterable[Mapping[str, Any]]) -> None:
        """Replace errors.jsonl: what this run says, and earlier errors about other files.

        Raises:
            HipieError: if it cannot be written.
        """
        path, again = self.storage.join(ERRORS), set(tried)
        kept = []
        for line in (
            (self.storage.read_if_exists(path) or b"").decode("utf-8", "replace").splitlines()
        ):
            with suppress(ValueError, TypeError, KeyError):
                if json.loads(line)["file"] not in again:
                    kept.append(line)
        lines = [*kept, *map(json.dumps, errors)]
        if lines:
            self.storage.write(path, "".join(f"{line}\n" for line in lines).encode())
        else:
            self.storage.delete(path)

    def _state(self, number: int) -> ShardState:
        return read_shard_state(self.storage, number)

    def _present(self, name: str) -> set[int | None]:
        """Return the numbers of the shards that there are in a format."""
        files = self.storage.files(self.storage.join(name))
        return {shard_number(info.base_name) for info in files} - {None}

    def _number(self, sources: Sequence[ImageSource]) -> list[NumberedSource]:
        """Number the images; the list of inputs is written before anything is computed."""
        keys = [os.fsencode(one.source) for one in sources]
        new = [position for position, key in enumerate(keys) if key not in self._numbers]
        if new:
            given = [sources[position].image_id for position in new]
            # Ids of a COCO file are kept where every image has one, and all differ.
            has_others = self._ids != list(range(1, len(self._ids) + 1))
            known = {*self._ids, *(one for one in given if one is not None)}
            keep = None not in given and len(known) == len(self._ids) + len(given)
            first = max(self._ids, default=0) + 1
            if keep and (has_others or not self._ids):
                self._ids += [one for one in given if one is not None]
            else:
                self._ids += range(first, first + len(new))
            for position in new:
                self._numbers[keys[position]] = len(self._numbers)
            table = {"source": list(self._numbers), "image_id": self._ids}
            self.storage.write(self.storage.join(_INPUTS), to_parquet_bytes(table))
        numbers = [self._numbers[key] for key in keys]
        return [
            NumberedSource(number, self._ids[number], source)
            for number, source in zip(numbers, sources, strict=True)
        ]

    def _read_inputs(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.storage.join(_INPUTS)
        data = self.storage.read_if_exists(path)
        if data is None:
            return
        try:
            table = pq.read_table(pa.BufferReader(data))
            sources, self._ids = table["source"].to_pylist(), table["image_id"].to_pylist()
        except (OSError, KeyError, pa.ArrowException) as error:
            raise InputError(
                f"{self.storage.address(path)}: this is not a file of hipie; make all results "
                "anew with --overwrite"
            ) from error
        self._numbers = {source: number for number, source in enumerate(sources)}


def _lock(path: str) -> FileLock:
    lock = FileLock(f"{path}/{STATE}/lock")
    try:
        os.makedirs(f"{path}/{STATE}", exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            f"another process writes results into {path}; wait for it or name another --output"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise MachineError(f"{path}: it cannot be written ({cause_of(error)})") from error
    return lock


def _read_settings(address: str, data: bytes) -> tuple[int, dict[str, Any]]:
    """Return the images of a shard and the identity of the results."""
    try:
        content = json.loads(data)
        count, identity = content["images_per_shard"], content["identity"]
        if type(count) is int and count > 0 and isinstance(identity, dict):
            return count, identity
    except (ValueError, TypeError, LookupError):
        pass
    raise InputError(f"{address}: this is not a file of hipie's results of a cluster")
