"""Files of repositories on the Hugging Face hub, through `huggingface_hub`.

Its cache (`HF_HOME`), server (`HF_ENDPOINT`), token and offline mode are respected; it resumes
downloads and lets one process download a file for all. Its own messages are kept off the screen.
"""

from __future__ import annotations

import errno
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import logging as hub_logging

from hipie.errors import SYSTEM_REASONS, InputError, cause_of
from hipie.model_zoo.records import FileRecord, digest, known_sha256, record_sha256
from hipie.modeling.hub import is_hub_name

# Of the first request, which is not repeated; and of all that it may wait for, names included.
REQUEST_SECONDS, CONNECT_SECONDS = 8.0, 10.0
WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_SHA256 = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_REPOSITORY = "the hub has no such repository, or it is private (HF_TOKEN)"
_HUB_CACHE_HINT = "HF_HOME names another folder"

Result = TypeVar("Result")


class HubRequestError(InputError):
    """A file of the hub that is not available; the message is the reason, without the model."""


def address(repository: str) -> str:
    """Return the address of a repository for messages."""
    return f"{constants.ENDPOINT}/{repository}"


def is_repository_name(name: str) -> bool:
    """Whether a text has the form "owner/name"."""
    return bool(_NAME.fullmatch(name)) and is_hub_name(name)


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids requests."""
    return bool(constants.HF_HUB_OFFLINE)


def list_files(repository: str, revision: str = "") -> list[FileRecord]:
    """Return the files of a repository, with commit, size and SHA-256 of the hub's metadata.

    Raises:
        HubRequestError: if there is no such repository or revision, or it cannot be reached.
    """
    api = HfApi(endpoint=constants.ENDPOINT)

    def request() -> Any:
        return api.model_info(
            repository, revision=revision or None, files_metadata=True, timeout=REQUEST_SECONDS
        )

    with _reasons(repository):
        info = within(CONNECT_SECONDS, request)
        return [
            FileRecord(
                str(entry.rfilename),
                str(info.sha or ""),
                str(entry.lfs.sha256) if entry.lfs and _SHA256.fullmatch(entry.lfs.sha256) else "",
                int(entry.size or 0),
            )
            for entry in info.siblings or ()
        ]


def choose_file(files: list[FileRecord], others: str, keyword: str) -> FileRecord:
    """Return the file of weights of one model among those of a repository.

    Args:
        files: all files.
        others: pattern of the names of other models' files; case makes no difference.
        keyword: pattern that the name has to match if several files remain.

    Raises:
        HubRequestError: if not exactly one file remains, naming them.
    """
    weights = [entry for entry in files if entry.file.lower().endswith(WEIGHT_SUFFIXES)]
    remaining = [e for e in weights if not re.search(others, e.file, re.IGNORECASE)]
    matching = [e for e in remaining if re.search(keyword, e.file, re.IGNORECASE)]
    chosen = matching if len(remaining) > 1 else remaining
    if len(chosen) != 1:
        names = ", ".join(entry.file for entry in chosen or weights) or "none"
        raise HubRequestError(
            f"its file cannot be told by the names of the repository's files of weights ({names})"
        )
    return chosen[0]


def cached_file(repository: str, file: str, revision: str = "") -> Path | None:
    """Return a file of the hub's cache; None if it is not there."""
    path = try_to_load_from_cache(repository, file, revision=revision or None)
    return Path(path) if isinstance(path, str) else None


def cached_sha256(file: Path) -> str:
    """Return the SHA-256 that the hub stated for a cached file; "" if it is not known."""
    name = file.resolve().name
    return name if _SHA256.fullmatch(name) else ""


def download_file(repository: str, entry: FileRecord) -> Path:
    """Download a file of a repository into the hub's cache, with a progress bar.

    Raises:
        HubRequestError: with the reason, if it fails.
    """
    with _reasons(repository):
        _require_space(entry)
        return Path(
            hf_hub_download(
                repository,
                entry.file,
                revision=entry.revision or None,
                endpoint=constants.ENDPOINT,
                etag_timeout=REQUEST_SECONDS,
            )
        )


def require_sha256(file: Path, sha256: str) -> None:
    """Check a downloaded file once, and remove it if it is another one.

    Args:
        file: in the hub's cache.
        sha256: of the hub's metadata; "" is not checked.

    Raises:
        HubRequestError: if the file has another checksum.
    """
    if not sha256 or known_sha256(file) == sha256:
        return
    computed = digest(file)
    if computed != sha256:
        discard(file)
        raise HubRequestError(
            f"the downloaded {file.name} is another file: its SHA-256 begins with {computed[:12]} "
            f"instead of {sha256[:12]}; it was removed"
        )
    record_sha256(file, sha256)


def discard(file: Path) -> None:
    """Remove a file from the hub's cache, with the link that leads to it."""
    content = file.resolve()
    file.unlink(missing_ok=True)
    content.unlink(missing_ok=True)


def check_reachable(repository: str, entry: FileRecord) -> None:
    """Check with one request that a file can be downloaded, and that it is the expected one.

    Raises:
        HubRequestError: if it is not there, cannot be reached, or is another file.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(
        repository, entry.file, revision=entry.revision or None, endpoint=constants.ENDPOINT
    )
    with _reasons(repository):
        metadata = within(
            CONNECT_SECONDS, lambda: get_hf_file_metadata(url, timeout=REQUEST_SECONDS)
        )
        offered = metadata.etag or ""
        if entry.sha256 and _SHA256.fullmatch(offered) and offered != entry.sha256:
            raise HubRequestError(
                f"{entry.file} is another file there: its SHA-256 begins with {offered[:12]} "
                f"instead of {entry.sha256[:12]}"
            )


@contextmanager
def _reasons(repository: str) -> Iterator[None]:
    """Raise `HubRequestError` with one clause instead of the errors of the client."""
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity(hub_logging.CRITICAL)
    try:
        yield
    except HubRequestError:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise HubRequestError(reason) from error
    finally:
        hub_logging.set_verbosity(verbosity)


def _reason(error: BaseException) -> str | None:
    """Describe an error of the client, the network or the disk; None for any other."""
    if isinstance(error, hub_errors.GatedRepoError):
        return (
            "it is open only to users who have accepted its terms: accept them on its page, and "
            "name your token with HF_TOKEN or hf auth login"
        )
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return "the hub does not have this revision of it"
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return _NO_REPOSITORY
    if isinstance(error, hub_errors.EntryNotFoundError) and not isinstance(
        error, hub_errors.LocalEntryNotFoundError
    ):
        return "the hub does not have this file in it"
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return "the hub's offline mode is set (HF_HUB_OFFLINE)"
    if isinstance(error, hub_errors.HFValidationError):
        return "this is not the name of a repository"
    causes = _causes(error)
    disk = next((e for e in causes if isinstance(e, OSError) and e.errno in _DISK), None)
    if disk is not None:
        return f"{disk.filename or constants.HF_HUB_CACHE}: {cause_of(disk)}; {_HUB_CACHE_HINT}"
    place = next((e for e in causes if isinstance(e, OSError) and e.filename is not None), None)
    if place is not None:
        return f"{place.filename}: {cause_of(place)}; {_HUB_CACHE_HINT}"
    status = next(
        (
            getattr(e.response, "status_code", None)
            for e in causes
            if isinstance(e, hub_errors.HfHubHTTPError) and e.response is not None
        ),
        None,
    )
    if status is not None and status == HTTPStatus.UNAUTHORIZED:
        return _NO_REPOSITORY
    if status is not None:
        return f"the hub answered with status {status}"
    return _network_reason(causes)


def _network_reason(causes: list[BaseException]) -> str | None:
    """Describe a failure of the network; None if it is something else."""
    for error in causes:
        if isinstance(error, OSError) and error.errno in SYSTEM_REASONS:
            return f"it cannot be reached ({SYSTEM_REASONS[error.errno]})"
    names = {cls.__name__ for error in causes for cls in type(error).__mro__}
    if "gaierror" in names:
        return "it cannot be reached (there is no network, or the name of the host is unknown)"
    text = " ".join(str(error) for error in causes).lower()
    if "consistency check" in text:
        return "the connection broke repeatedly before the end of the file"
    if names & {"RemoteProtocolError", "ReadError", "ChunkedEncodingError", "ProtocolError"}:
        return "the connection broke repeatedly"
    if names & {"TimeoutException", "Timeout"} or isinstance(causes[0], TimeoutError):
        return "it did not answer in time"
    if "refused" in text:
        return f"it cannot be reached ({SYSTEM_REASONS[errno.ECONNREFUSED]})"
    if names & {"TransportError", "RequestException", "gaierror", "ConnectionError"} or isinstance(
        causes[0], hub_errors.LocalEntryNotFoundError
    ):
        return "it cannot be reached"
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and those that led to it."""
    causes: list[BaseException] = []
    pending: BaseException | None = error
    while pending is not None and pending not in causes:
        causes.append(pending)
        pending = pending.__cause__ or pending.__context__
    return causes


def _require_space(entry: FileRecord) -> None:
    """Check that a file fits on the disk of the cache."""
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if entry.size > free:
        raise HubRequestError(
            f"{PurePosixPath(entry.file).name} has {entry.size / 1e9:.1f} GB, and the disk of "
            f"{constants.HF_HUB_CACHE} has {free / 1e9:.1f} GB of free space; {_HUB_CACHE_HINT}"
        )


def within(seconds: float, request: Callable[[], Result]) -> Result:
    """Return the result of a request that may hang, such as in the search for a host's address.

    Raises:
        TimeoutError: if it takes longer.
    """
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(request())
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if not results:
        raise TimeoutError(errno.ETIMEDOUT, "no answer")
    return results[0]
