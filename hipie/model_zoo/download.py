"""Weights of models: found on this machine or downloaded, and checked.

A file is looked for where users put it by hand, then in the cache of the hub or of addresses. Its
SHA-256 is checked once, and again when the file changes.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.request import getproxies

from hipie.downloads import DownloadError, download
from hipie.downloads.address import parse_file_address
from hipie.downloads.transfer import MAX_WEIGHTS_BYTES
from hipie.errors import cause_of
from hipie.model_zoo import hub
from hipie.model_zoo.models import (
    HubFile,
    Model,
    ModelError,
    UrlFile,
    packaged_models,
)
from hipie.model_zoo.records import (
    FileRecord,
    digest,
    known_sha256,
    models_folder,
    record,
    record_sha256,
    recorded,
)


def model_file(model: Model) -> Path:
    """Return the file of a model's weights, which is downloaded if it is not on this machine.

    Args:
        model: one whose weights are not in a package.

    Raises:
        ModelError: if the file on this machine is not the model's, or it cannot be downloaded; the
            message has the address, the folder for a copy, and a model that works without.
    """
    file = find_file(model)
    if file is not None:
        return check_file(model, file)
    return check_file(model, _download(model), fresh=True)


def find_file(model: Model) -> Path | None:
    """Return the file of a model on this machine, unchecked; None without one."""
    by_hand = _file_by_hand(model)
    if by_hand is not None:
        return by_hand
    source = model.source
    if isinstance(source, HubFile):
        entry = _known_entry(model, source)
        file, revision = (entry.file, entry.revision) if entry else (source.file, source.revision)
        return hub.cached_file(source.repository, file, revision) if file else None
    assert isinstance(source, UrlFile)
    return _cached_address(source)


def check_file(model: Model, file: Path, fresh: bool = False, again: bool = False) -> Path:
    """Check that a file is that of a model: size, checksum, and names of its tensors.

    Args:
        model: see `model_file`.
        file: of the weights.
        fresh: it was just downloaded, and is removed if it is another file.
        again: compute the checksum although the file has not changed since it was checked.

    Returns:
        The file.

    Raises:
        ModelError: naming the file and what differs.
    """
    size, sha256 = _expected(model, file)
    known = known_sha256(file)
    if known and not again and sha256 in ("", known):
        return file
    problem = ""
    actual_size = file.stat().st_size
    if size and actual_size != size:
        problem = f"it has {actual_size:,} bytes instead of {size:,}"
    else:
        computed = digest(file)
        if sha256 and computed != sha256:
            problem = f"its SHA-256 begins with {computed[:12]} instead of {sha256[:12]}"
        md5_start = getattr(model.source, "md5_start", "")
        if not problem and md5_start and not digest(file, "md5").startswith(md5_start):
            problem = f"its MD5 does not begin with {md5_start}"
        problem = problem or _wrong_layout(model, file)
    if problem:
        _refuse(model, file, problem, fresh)
    record_sha256(file, computed)
    if fresh and not sha256:
        entry = recorded(model.name)
        revision = entry.revision if entry else ""
        record(model.name, FileRecord(file.name, revision, computed, actual_size))
    return file


def folder_by_hand(model: Model) -> Path:
    """Return the folder where a copy of a model's file is found."""
    return models_folder() / model.name


def _refuse(model: Model, file: Path, problem: str, fresh: bool) -> None:
    if fresh:
        hub.discard(file)
        raise _unavailable(model, f"the downloaded file is another one: {problem}; it was removed")
    raise ModelError(
        f"{file} is not the file of {model.name}: {problem}; remove it, and it is downloaded again"
    )


def _expected(model: Model, file: Path) -> tuple[int, str]:
    """Return the size and the SHA-256 that a file must have; 0 and "" where they are unknown."""
    source = model.source
    assert isinstance(source, HubFile | UrlFile)
    if source.sha256:
        return source.size, source.sha256
    entry = recorded(model.name)
    if entry is not None and entry.sha256:
        return entry.size, entry.sha256
    if isinstance(source, HubFile) and folder_by_hand(model) not in file.parents:
        return 0, hub.cached_sha256(file)
    return source.size, ""


def _file_by_hand(model: Model) -> Path | None:
    """Return the file that a user put into the model's folder; a single one may have any name."""
    folder, source = folder_by_hand(model), model.source
    assert isinstance(source, HubFile | UrlFile)
    name = source.file.rpartition("/")[2]
    if name and (folder / name).is_file():
        return folder / name
    if name or not folder.is_dir():
        return None
    files = [file for file in sorted(folder.iterdir()) if file.suffix in hub.WEIGHT_SUFFIXES]
    if len(files) > 1:
        raise ModelError(
            f"{folder} has {len(files)} files of weights; leave the one that is {model.name}"
        )
    return files[0] if files else None


def _known_entry(model: Model, source: HubFile) -> FileRecord | None:
    """Return the file that the table or the first use determines."""
    if source.sha256:
        return FileRecord(source.file, source.revision, source.sha256, source.size)
    return recorded(model.name)


def _download(model: Model) -> Path:
    source = model.source
    if isinstance(source, HubFile):
        return _download_from_hub(model, source)
    assert isinstance(source, UrlFile)
    return _download_address(model, source)


def _download_from_hub(model: Model, source: HubFile) -> Path:
    if hub.is_offline():
        raise _unavailable(model, "the hub's offline mode is set (HF_HUB_OFFLINE)")
    try:
        entry = _known_entry(model, source)
        if entry is None:
            entry = _first_use(model, source)
        else:
            hub.check_reachable(source.repository, entry)
        file = hub.download_file(source.repository, entry)
        for beside in _companions(source, entry):
            path = hub.download_file(source.repository, beside)
            hub.require_sha256(path, beside.sha256)
    except hub.HubRequestError as error:
        raise _unavailable(model, str(error)) from error
    return file


def _companions(source: HubFile, entry: FileRecord) -> list[FileRecord]:
    """Return the files that a loader reads beside a file, by the repository's list if necessary."""
    if not any("*" in companion for companion in source.companions):
        return [FileRecord(companion, entry.revision, "", 0) for companion in source.companions]
    folder = PurePosixPath(entry.file).parent
    return [
        listed
        for listed in hub.list_files(source.repository, entry.revision)
        if PurePosixPath(listed.file).parent == folder
        and any(fnmatchcase(PurePosixPath(listed.file).name, c) for c in source.companions)
    ]


def _first_use(model: Model, source: HubFile) -> FileRecord:
    """Determine and record file, revision and checksum by the list of the repository's files."""
    files = hub.list_files(source.repository)
    if source.file:
        entry = next((entry for entry in files if entry.file == source.file), None)
        if entry is None:
            raise hub.HubRequestError(f"the hub does not have the file {source.file} in it")
    else:
        entry = hub.choose_file(files, source.others, source.keyword)
    record(model.name, entry)
    return entry


def _cached_address(source: UrlFile) -> Path | None:
    file = parse_file_address(source.url).cache_path()
    return file if file.is_file() else None


def _download_address(model: Model, source: UrlFile) -> Path:
    if hub.is_offline():
        raise _unavailable(model, "the offline mode is set (HF_HUB_OFFLINE)")
    try:
        _require_answer(source.url)
        return download(
            source.url,
            sha256=source.sha256 or None,
            md5_prefix=source.md5_start or None,
            max_bytes=source.size or MAX_WEIGHTS_BYTES,
        )
    except DownloadError as error:
        raise ModelError(f"{model.name}: {error}; or use {_alternative()}") from error


def _require_answer(url: str) -> None:
    """Check that a server takes a connection within seconds; the download itself is more patient.

    Raises:
        DownloadError: if it does not, as in networks that discard what is sent.
    """
    address = parse_file_address(url)
    if address.scheme in getproxies():
        return
    port = address.port or (443 if address.scheme == "https" else 80)

    def connect() -> None:
        with (
            suppress(ConnectionError, socket.gaierror),  # told by the download
            socket.create_connection((address.host, port), timeout=hub.REQUEST_SECONDS),
        ):
            pass

    try:
        hub.within(hub.CONNECT_SECONDS, connect)
    except OSError as error:
        reason = "the server did not answer in time"
        if not isinstance(error, TimeoutError):
            reason = cause_of(error)
        raise DownloadError(
            f"{address}: it could not be downloaded ({reason}); a copy of the file is used if it "
            f"is put into {address.cache_path().parent} as {address.file_name}"
        ) from error


def _unavailable(model: Model, reason: str) -> ModelError:
    """Return the error of a model that is not on this machine and cannot be downloaded."""
    source = model.source
    assert isinstance(source, HubFile | UrlFile)
    place = hub.address(source.repository) if isinstance(source, HubFile) else source.url
    file = source.file or "its file of weights"
    return ModelError(
        f"{model.name}: {place}: {reason}; put {file} into {folder_by_hand(model)} by hand, "
        f"or use {_alternative()}"
    )


def _alternative() -> str:
    """Name a model whose weights are installed."""
    packaged = packaged_models()
    return f"{packaged[0]}, whose weights are in the package" if packaged else "weights of your own"


def _wrong_layout(model: Model, file: Path) -> str:
    """Describe why a file is not of the layout of a model's checkpoint; "" if it is, or unknown."""
    if not model.layout:
        return ""
    from hipie.checkpoint.converters.conversion import convert_state
    from hipie.checkpoint.converters.hipie import OFFICIAL_HIPIE, UNINEXT
    from hipie.checkpoint.error import CheckpointError
    from hipie.checkpoint.load import backbone_kind
    from hipie.checkpoint.read import read_state, unwrap_names

    try:
        state = unwrap_names(read_state(file)["model"])
        converted = convert_state(state, (OFFICIAL_HIPIE, UNINEXT))
    except CheckpointError as error:
        return str(error).removeprefix(f"{file}: ")
    if converted.layout != model.layout:
        return f'its tensors are of the layout "{converted.layout}" instead of "{model.layout}"'
    backbone = backbone_kind(converted.state)
    if model.backbone and backbone != model.backbone:
        return f"its backbone is {backbone or 'unknown'} instead of {model.backbone}"
    return ""
