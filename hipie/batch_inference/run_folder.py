"""State of a run in its folder of results: settings, records of the images, errors, a lock.

    OUTPUT/.hipie/settings.json    what the results were made with
    OUTPUT/.hipie/classes.json     class names in the order of their ids, each with its kind
    OUTPUT/.hipie/records.jsonl    one line an image, appended when it has been segmented
    OUTPUT/.hipie/lock             held while a process writes into the folder
    OUTPUT/errors.jsonl            one line (file, error) an image that could not be segmented

A record is appended by one write, before the files of the image are written. A process that is
killed leaves at most one incomplete line, the last one, which the next run removes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from hipie.batch_inference.records import ImageRecord, is_class_name
from hipie.data.io.json_file import read_json
from hipie.data.io.regular_file import read_file
from hipie.errors import InputError, MachineError, UsageError, cause_of, printable
from hipie.result_files import replace_file

STATE = ".hipie"
ERRORS = "errors.jsonl"
# What reading a line raises that this package has not written.
_NO_RECORD = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


class ResultFolder:
    """What formats need to write the files of one image.

    Args:
        path: the folder of results.
        settings: what is written into result files about how they were made.
        classes: kinds of the classes by name, in the order of their ids.
    """

    def __init__(
        self, path: str | Path, settings: Mapping[str, Any], classes: Mapping[str, str]
    ) -> None:
        self.path = Path(path)
        self.settings = dict(settings)
        self.classes = dict(classes)

    def category_ids(self) -> dict[str, int]:
        """Return the ids of all classes of the folder by name, from 1."""
        return {name: number for number, name in enumerate(self.classes, 1)}


class RunFolder(ResultFolder):
    """The folder of results of one run, locked while it is open.

    Args:
        path: the folder, which is made.
        identity: what results depend on, of which `config` is a dict of its own; a folder with
            results of others is refused.
        settings: what is written into result files about how they were made.
        overwrite: discard the records of earlier runs, whatever their identity.

    Attributes:
        is_new: whether no earlier run has written results into the folder, or they are discarded.
        classes: kinds of the classes by name, in the order of their ids.

    Raises:
        UsageError: if another process writes into the folder, or it has results of other settings.
        MachineError: if it cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, Any],
        *,
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__(path, identity if settings is None else settings, {})
        self.state = self.path / STATE
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._lock = FileLock(self.state / "lock")
        self._stream: int | None = None
        self._errors: dict[str, str] = {}
        self._positions: dict[tuple[str, int | None], tuple[str, int, tuple[int, int]]] = {}
        self._videos: dict[tuple[str, int], tuple[int, int]] = {}
        self.is_new = True
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                f"another process writes results into {path}; wait for it or name another --output"
            ) from error
        except (OSError, NotImplementedError) as error:
            raise MachineError(f"{path}: it cannot be written ({cause_of(error)})") from error
        try:
            self._open(overwrite)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder."""
        if self._stream is not None:
            os.close(self._stream)
            self._stream = None
        self._lock.release()

    @property
    def _records_file(self) -> Path:
        return self.state / "records.jsonl"

    def _open(self, overwrite: bool) -> None:
        settings_file = self.state / "settings.json"
        if overwrite:
            for name in ("records.jsonl", "settings.json", "classes.json"):
                (self.state / name).unlink(missing_ok=True)
        elif settings_file.exists():
            self.is_new = False
            require_same_settings(self.path, _read_state(settings_file), self.identity)
            self.classes = _read_classes(self.state / "classes.json")
        if not settings_file.exists():
            _write_json(settings_file, self.identity)
        self._read_records()
        self._read_errors()
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._stream = os.open(self._records_file, flags, 0o666)
        except OSError as error:
            raise MachineError(
                f"{self._records_file}: it cannot be written ({cause_of(error)})"
            ) from error

    def _read_records(self) -> None:
        """Index the records, and remove an incomplete last line."""
        if not self._records_file.exists():
            return
        if not self._records_file.is_file():
            raise InputError(f"{self._records_file}: this is not a regular file")
        end = 0
        with self._records_file.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._index(line, end)
                end += len(line)
        if end < self._records_file.stat().st_size:
            os.truncate(self._records_file, end)

    def _index(self, line: bytes, position: int) -> None:
        with suppress(*_NO_RECORD):
            content = json.loads(line)
            if "frames" in content:
                size, changed = content["version"]
                self._videos[content["source"], content["every"]] = (size, changed)
                return
            record = ImageRecord.from_line(content)
            self._positions[record.source, record.frame] = (record.name, position, record.version)

    def known_names(self) -> dict[str, str]:
        """Return the output names of the images and videos that have records, by source."""
        return {
            source: name if frame is None else name.rpartition("/")[0]
            for (source, frame), (name, _, _) in self._positions.items()
        }

    def has(self, source: str, frame: int | None, version: tuple[int, int]) -> bool:
        """Whether there is a record of an image as it is on disk now."""
        known = self._positions.get((source, frame))
        return known is not None and known[2] == version

    def record(self, source: str, frame: int | None = None) -> ImageRecord:
        """Read the record of an image.

        Raises:
            KeyError: if there is none.
            InputError: if it is damaged.
        """
        position = self._positions[source, frame][1]
        with self._records_file.open("rb") as file:
            return self._read_record(file, position)

    def records(self) -> Iterator[ImageRecord]:
        """Read the record of every image, sorted by name.

        Raises:
            InputError: if one is damaged.
        """
        if not self._positions:
            return
        by_name = sorted((name, position) for name, position, _ in self._positions.values())
        with self._records_file.open("rb") as file:
            for _, position in by_name:
                yield self._read_record(file, position)

    def _read_record(self, file: BinaryIO, position: int) -> ImageRecord:
        file.seek(position)
        try:
            record = ImageRecord.from_line(json.loads(file.readline()))
            record.check_segments()
        except _NO_RECORD as error:
            raise InputError(
                f"{self._records_file}: the record at byte {position:,} is damaged "
                f"({cause_of(error)}); make all results anew with --overwrite"
            ) from error
        return record

    def add(self, record: ImageRecord) -> None:
        """Append the record of an image.

        Raises:
            MachineError: if it cannot be written.
        """
        self._add_classes(record)
        position = self._append(record.to_line())
        self._positions[record.source, record.frame] = (record.name, position, record.version)

    def frames_of(self, source: str, every: int, version: tuple[int, int]) -> list[int] | None:
        """Return the frames of a video that has been read to its end; None otherwise."""
        if self._videos.get((source, every)) != version:
            return None
        frames = (frame for file, frame in self._positions if file == source)
        return sorted(frame for frame in frames if frame is not None and frame % every == 0)

    def add_video(self, source: str, every: int, version: tuple[int, int], frames: int) -> None:
        """Record that all frames of a video have been segmented."""
        line = {"source": source, "every": every, "version": list(version), "frames": frames}
        self._append(line)
        self._videos[source, every] = version

    def _append(self, line: Mapping[str, Any]) -> int:
        """Append a line to the records, and return its position in the file."""
        data = json.dumps(line).encode() + b"\n"
        stream = self._stream
        assert stream is not None
        position = os.fstat(stream).st_size
        try:
            written = os.write(stream, data)
            while written < len(data):
                written += os.write(stream, data[written:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(stream, position)
            raise MachineError(
                f"{self._records_file}: it cannot be written ({cause_of(error)})"
            ) from error
        return position

    def add_class_names(self, kinds: Mapping[str, str]) -> None:
        """Add classes, by name with their kind, behind those that have ids."""
        new = {name: kind for name, kind in kinds.items() if name not in self.classes}
        if new:
            # Another thread may read the ids: the table is replaced as a whole.
            self.classes = self.classes | new
            _write_json(self.state / "classes.json", self.classes)

    def _add_classes(self, record: ImageRecord) -> None:
        entries = list(record.result["segments"])
        kinds: dict[str, str] = {}
        while entries:
            entry = entries.pop(0)
            kinds.setdefault(entry["category"], entry["kind"])
            entries[:0] = entry.get("parts", ())
        self.add_class_names(kinds)

    def _read_errors(self) -> None:
        file = self.path / ERRORS
        if not file.exists():
            return
        for line in read_file(file, "list of errors").decode("utf-8", "replace").splitlines():
            with suppress(*_NO_RECORD):
                entry = json.loads(line)
                name, frame = entry["file"], entry.get("frame")
                if (
                    isinstance(name, str)
                    and "\0" not in name
                    and (frame is None or type(frame) is int)
                ):
                    self._errors[json.dumps([name, frame])] = line

    def start_errors(self, inputs: Iterable[str]) -> None:
        """Remove errors of earlier runs about files that are tried again or do not exist."""
        again = set(inputs)
        files = {key: json.loads(key)[0] for key in self._errors}
        kept = {
            key: line
            for key, line in self._errors.items()
            if files[key] not in again and os.path.exists(files[key])
        }
        if kept != self._errors:
            self._errors = kept
            self._write_errors()

    def add_error(self, entry: Mapping[str, Any]) -> None:
        """Append a line with `file`, perhaps `frame`, and `error` to errors.jsonl.

        Raises:
            MachineError: if it cannot be written.
        """
        line = json.dumps(entry)
        self._errors[json.dumps([entry["file"], entry.get("frame")])] = line
        try:
            with (self.path / ERRORS).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise MachineError(
                f"{self.path / ERRORS}: it cannot be written ({cause_of(error)})"
            ) from error

    def _write_errors(self) -> None:
        text = "".join(f"{line}\n" for line in self._errors.values())
        if text:
            replace_file(self.path / ERRORS, lambda file: file.write(text.encode()))
        else:
            (self.path / ERRORS).unlink(missing_ok=True)


def require_writable_folder(path: str | Path) -> None:
    """Check, before a model is built, that a folder can be made and written.

    Raises:
        MachineError: if it cannot.
    """
    state = Path(path) / STATE
    is_new = not Path(path).exists()
    try:
        state.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=state):
            pass
        if is_new:
            state.rmdir()
            Path(path).rmdir()
    except OSError as error:
        raise MachineError(f"{path}: it cannot be written ({cause_of(error)})") from error


def require_same_settings(
    path: str | Path, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Check that results of earlier runs were made as those of this one will be.

    Args:
        path: the folder, for messages.
        before: what its results depend on; see `RunFolder`.
        now: likewise, of this run.

    Raises:
        UsageError: naming the first setting that differs, and both values.
    """
    old_values, new_values = _flat(before), _flat(now)
    for name in dict.fromkeys((*new_values, *old_values)):
        old, new = old_values.get(name), new_values.get(name)
        if old != new:
            raise UsageError(
                f"{path} has results of another {name}: {_shown(old)}, and now it is "
                f"{_shown(new)}; name another --output, or make all results anew with --overwrite"
            )


def _write_json(file: Path, content: Any) -> None:
    replace_file(file, lambda stream: stream.write(json.dumps(content, indent=1).encode()))


def _read_state(file: Path) -> dict[str, Any]:
    """Read a file of the state, {} if there is none."""
    if not file.exists():
        return {}
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{file}: this is not a file of hipie")
    return content


def _read_classes(file: Path) -> dict[str, str]:
    content = _read_state(file)
    for name, kind in content.items():
        if not isinstance(kind, str) or not is_class_name(name):
            raise InputError(f"{file}: this is not a file of hipie")
    return content


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace a dict of the settings by its values: `{"config": {"A": 1}}` -> `{"A": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and name == "config":
            flat.update(value)
        else:
            flat[name] = value
    return flat


def _shown(value: Any) -> str:
    return "not given" if value in (None, "", [], {}) else printable(json.dumps(value), 60)
