"""Downloads over HTTP: resumed, checked, atomic, and once for all processes."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import secrets
import shutil
import socket
import ssl
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any

import portalocker
from tqdm import tqdm

from hipie import __version__
from hipie.downloads.address import (
    FVCORE_CACHE,
    Address,
    DownloadError,
    cache_folder,
    parse_address,
    parse_file_address,
)
from hipie.errors import cause_of
from hipie.logs import get_logger

logger = get_logger(__name__)

TIMEOUT_SECONDS = 30.0
# A connection is given up that is slower than this many bytes a second for as many seconds.
MIN_SPEED, MIN_SPEED_SECONDS = 1024, 60.0
# Connections in a row that bring less than a block before the download fails; seconds between them.
ATTEMPTS, PAUSE_SECONDS = 4, 1.0
MAX_REDIRECTS = 5
MAX_BYTES = 2**38
# Of weights that a table names: the largest have 3 GB.
MAX_WEIGHTS_BYTES = 2**34
BLOCK = 2**18
# Statuses of servers that are busy.
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})

# Publishers who put the start of a file's checksum into its name, and the checksum's type.
_NAMED_CHECKSUMS = (
    (
        re.compile(
            r"https://dl\.fbaipublicfiles\.com/(?:detectron2|segment_anything)/"
            r"(?:.*/)?[^/]*_([0-9a-f]{6})\.(?:pkl|pth)"
        ),
        "md5",
    ),
    (
        re.compile(r"https://download\.pytorch\.org/(?:.*/)?[^/]*-([0-9a-f]{8,64})\.(?:pth|pt)"),
        "sha256",
    ),
)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class Checksum:
    """Start of a file's checksum.

    Attributes:
        kind: "sha256" or "md5".
        prefix: hexadecimal digits, lower case.
    """

    kind: str
    prefix: str

    def matches(self, path: Path) -> bool:
        """Whether a file has it."""
        with open(path, "rb") as file:
            digest = hashlib.file_digest(
                file, lambda: hashlib.new(self.kind, usedforsecurity=False)
            )
        return digest.hexdigest().startswith(self.prefix)


def download(
    url: str,
    *,
    sha256: str | None = None,
    md5_prefix: str | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
    force: bool = False,
    max_bytes: int = 0,
) -> Path:
    """Download a file once, and return its path.

    The file is complete and checked when it has its name. An interrupted download is continued, by
    the next call if need be; of several processes one downloads and the others wait.

    Args:
        url: https; http of this machine, or if it is permitted (see `parse_address`). Redirects
            may not lead from https to http, nor from another machine to this one.
        sha256: checksum of the file.
        md5_prefix: first digits of its MD5. Publishers who write a checksum into the names of their
            files are known: Detectron2's model zoo, SAM, torchvision.
        folder: of the file; by default folders of the host and the path in `cache_folder`.
        progress: show a progress bar where the standard error is a terminal.
        force: download it again if it is there.
        max_bytes: a larger file is given up; 0: more than `MAX_BYTES`.

    Returns:
        The file.

    Raises:
        DownloadError: naming the address, the reason, and where a copy can be put by hand.
    """
    address = parse_file_address(url)
    base = cache_folder() if folder is None else Path(folder).absolute()
    target = address.cache_path() if folder is None else base / address.file_name
    checksum = _checksum(address, sha256, md5_prefix)
    with _named_errors(address, target):
        if target.is_file() and not force:
            return _checked(address, target, checksum)
        _make_folder(target, base)
        with _lock(address, target):
            if target.is_file() and not force:
                return _checked(address, target, checksum)
            logger.info("Downloading %s to %s", address, target)
            with _Partial(target, max_bytes or MAX_BYTES) as partial:
                size = _fetch(address, partial, progress)
                partial.finish(address, checksum)
            logger.info("Downloaded %s: %s bytes", target, size)
    return target


def _checksum(address: Address, sha256: str | None, md5_prefix: str | None) -> Checksum | None:
    if sha256:
        return Checksum("sha256", sha256.lower())
    if md5_prefix:
        return Checksum("md5", md5_prefix.lower())
    for pattern, kind in _NAMED_CHECKSUMS:
        if match := pattern.fullmatch(address.url):
            return Checksum(kind, match[1])
    return None


def _checked(address: Address, target: Path, checksum: Checksum | None) -> Path:
    if checksum is not None and not checksum.matches(target):
        raise DownloadError(
            f"{target}: this is not the file of {address}, as its {checksum.kind.upper()} does not "
            f"begin with {checksum.prefix}; remove it"
        )
    return target


@contextmanager
def _named_errors(address: Address, target: Path) -> Iterator[None]:
    """Turn errors of the disk and the network into one sentence."""
    try:
        yield
    except DownloadError:
        raise
    except urllib.error.HTTPError as error:
        raise _failure(address, target, _status_reason(error.code), error.code) from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise _failure(address, target, _reason(error)) from error


def _failure(
    address: Address, target: Path, reason: str, status: int | None = None
) -> DownloadError:
    return DownloadError(
        f"{address}: it could not be downloaded ({reason}); a copy of the file is used if it is "
        f"put into {target.parent} as {target.name}",
        status,
    )


def _status_reason(status: int) -> str:
    reasons = {401: "the server wants a password", 403: "the server refuses to send it"}
    reasons |= {404: "the server has no such file", 410: "the server has the file no more"}
    reasons |= dict.fromkeys(BUSY, "the server is out of order or busy")
    reasons |= dict.fromkeys(
        (301, 302, 303, 307, 308), f"more than {MAX_REDIRECTS} redirects, or one to another scheme"
    )
    return f"{reasons.get(status, 'the server sends no file')}, status {status}"


def _reason(error: BaseException) -> str:
    cause = getattr(error, "reason", None)
    if isinstance(cause, BaseException):
        error = cause
    if getattr(error, "errno", None) == errno.ENOLCK:
        return "files in this folder cannot be locked"
    if isinstance(error, socket.gaierror):
        return "there is no network, or the name of the host is unknown"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "the certificate of the server is not valid"
    if isinstance(error, ssl.SSLError):
        return "the encrypted connection failed"
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, http.client.HTTPException):
        return "the connection was closed, or the answer is not HTTP"
    return cause_of(error)


def _make_folder(target: Path, base: Path) -> None:
    """Create the folder of a file, and check that links do not lead it out of the base folder."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"{target.parent}: this folder for downloads cannot be created ({cause_of(error)}); "
            f"{FVCORE_CACHE} names another one"
        ) from error
    if not target.parent.resolve().is_relative_to(base.resolve()):
        raise DownloadError(f"{target.parent}: a link leads out of the folder {base}")


@contextmanager
def _lock(address: Address, target: Path) -> Iterator[None]:
    """Wait until no other process downloads this file."""
    path = target.with_name(f".{target.name}.lock")
    flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), "r+b") as file:
        try:
            portalocker.lock(file, portalocker.LOCK_EX | portalocker.LOCK_NB)
        except portalocker.LockException:
            logger.info("Another process downloads %s; waiting for it", address)
            _wait_for_lock(file)
        try:
            yield
        finally:
            portalocker.unlock(file)


def _wait_for_lock(file: IO[bytes]) -> None:
    try:
        portalocker.lock(file, portalocker.LOCK_EX)
    except portalocker.LockException as error:
        raise OSError(errno.ENOLCK, "no lock") from error


class _Partial:
    """Temporary file beside the target: new, of an unpredictable name, and kept for a resumption.

    Its name has a digest of what identifies the content on the server. What is left of an earlier
    download is used if it is a regular file of this user with one name.

    Args:
        target: the file.
        max_bytes: of it.
    """

    def __init__(self, target: Path, max_bytes: int) -> None:
        self.target = target
        self.max_bytes = max_bytes
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self.identity = ""
        self._open_leftover()

    def __enter__(self) -> _Partial:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What a broken connection or Ctrl-C leaves is continued later.
        resumable = self.size and kind is not None and not issubclass(kind, DownloadError)
        if not (self.identity and resumable):
            self.discard()
        elif self._file is not None:
            self._file.close()

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return 0 if self._file is None else os.fstat(self._file.fileno()).st_size

    def start(self, identity: str) -> None:
        """Begin with an empty file; "" is for content that cannot be identified later."""
        self.discard()
        name = f".{self.target.name}.{identity or 'once'}.{secrets.token_hex(8)}.partial"
        path = self.target.with_name(name)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0)
        self._file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
        self._path, self.identity = path, identity

    def append(self, block: bytes) -> None:
        """Add bytes at the end.

        Raises:
            _DiskError: if they cannot be written.
        """
        assert self._file is not None
        try:
            view = memoryview(block)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _DiskError(error.errno, cause_of(error)) from error

    def discard(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._file, self._path, self.identity = None, None, ""

    def finish(self, address: Address, checksum: Checksum | None) -> None:
        """Check the file and give it its name; a link of that name is replaced.

        Raises:
            DownloadError: if its checksum is another one.
        """
        assert self._file is not None and self._path is not None
        if checksum is not None and not checksum.matches(self._path):
            raise _failure(
                address,
                self.target,
                f"its {checksum.kind.upper()} does not begin with {checksum.prefix}, so that it is "
                "another file",
            )
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._path, self.target)
        self._file, self._path = None, None

    def _open_leftover(self) -> None:
        pattern = re.compile(
            rf"\.{re.escape(self.target.name)}\.([0-9a-f]{{16}}|once)\.[0-9a-f]{{16}}\.partial"
        )
        for path in sorted(self.target.parent.iterdir()):
            match = pattern.fullmatch(path.name)
            if match is None:
                continue
            if self._file is None and match[1] != "once":
                self._file = _open_own(path)
                if self._file is not None:
                    self._path, self.identity = path, match[1]
                    continue
            with suppress(OSError):
                path.unlink()


class _DiskError(OSError):
    """Error of the disk, not of the network."""


class _SlowError(TimeoutError):
    """Connection that is slower than `MIN_SPEED`."""


def _open_own(path: Path) -> IO[bytes] | None:
    """Open a regular file of this user that has one name only; None for anything else."""
    flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.fdopen(os.open(path, flags | getattr(os, "O_NONBLOCK", 0)), "r+b", buffering=0)
    except OSError:
        return None
    status = os.fstat(file.fileno())
    is_own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and is_own:
        return file
    file.close()
    return None


def _fetch(address: Address, partial: _Partial, progress: bool) -> int:
    """Fill the temporary file, over several connections if they break; return its size."""
    failures = 0
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(
                desc=address.file_name,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                disable=None if progress else True,
            )
        )
        while True:
            before = partial.size
            try:
                if _transfer(address, partial, bar):
                    return partial.size
                error: BaseException = http.client.IncompleteRead(b"")
            except _DiskError:
                partial.discard()  # a disk should not stay full
                raise
            except urllib.error.HTTPError as http_error:
                http_error.close()
                if http_error.code == 416 and before:
                    partial.discard()
                    continue
                if http_error.code not in BUSY:
                    raise
                error = http_error
            except (OSError, http.client.HTTPException) as network_error:
                if isinstance(network_error, DownloadError) or _is_final(network_error):
                    raise
                error = network_error
            failures = 0 if partial.size >= before + BLOCK else failures + 1
            if failures >= ATTEMPTS:
                raise error
            logger.debug("The connection to %s broke: %s", address, _reason(error))
            time.sleep(PAUSE_SECONDS * 2**failures)


def _is_final(error: BaseException) -> bool:
    """Whether another attempt would fail as well."""
    cause = getattr(error, "reason", error)
    final = (_SlowError, socket.gaierror, ssl.SSLCertVerificationError, ConnectionRefusedError)
    return isinstance(cause, final)


def _transfer(address: Address, partial: _Partial, bar: Any) -> bool:
    """Receive over one connection; return whether the file is complete."""
    if partial.size and not partial.identity:
        partial.discard()  # nothing says whether the server still has the same content
    offset = partial.size
    headers = {"User-Agent": f"hipie/{__version__}", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    request = urllib.request.Request(address.url, headers=headers)
    with _opener().open(request, timeout=TIMEOUT_SECONDS) as response:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise http.client.HTTPException("compressed content")
        start, total = _extent(response.status, response.headers)
        identity = _identity(response.headers, total)
        if response.status == 206 and (start != offset or identity != partial.identity):
            partial.discard()
            return False
        if response.status != 206:
            partial.start(identity)
        remaining = None if total is None else total - partial.size
        _require_space(address, partial, remaining)
        bar.total = total
        bar.n = partial.size
        bar.refresh()
        _copy(address, response, partial, bar)
    if total is None:
        return partial.size > 0
    return partial.size == total > 0


def _copy(address: Address, response: Any, partial: _Partial, bar: Any) -> None:
    """Append what a connection brings, until it ends.

    Raises:
        _SlowError: if it is slow.
        DownloadError: if it brings more than a file may have.
    """
    started, received = time.monotonic(), 0
    while block := response.read1(BLOCK):
        partial.append(block)
        bar.update(len(block))
        received += len(block)
        if partial.size > partial.max_bytes:
            raise DownloadError(
                f"{address}: the server sends more than {partial.max_bytes:,} bytes"
            )
        elapsed = time.monotonic() - started
        if elapsed > MIN_SPEED_SECONDS:
            if received < MIN_SPEED * elapsed:
                raise _SlowError(errno.ETIMEDOUT, "slow")
            started, received = time.monotonic(), 0


def _extent(status: int, headers: Message) -> tuple[int, int | None]:
    """Return the offset of a response, and the size of the whole file if it is known."""
    if status == 206:
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if match is None:
            raise http.client.HTTPException("no Content-Range")
        return int(match[1]), int(match[3])
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isascii() and length.isdigit() else None


def _identity(headers: Message, total: int | None) -> str:
    """Return a digest that changes with the content on the server; "" if nothing identifies it."""
    tag = headers.get("ETag", "")
    validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    if not validator or total is None:
        return ""
    return hashlib.sha256(f"{validator} {total}".encode()).hexdigest()[:16]


def _require_space(address: Address, partial: _Partial, remaining: int | None) -> None:
    if remaining is None:
        return
    if partial.size + remaining > partial.max_bytes:
        raise DownloadError(
            f"{address}: the server offers {partial.size + remaining:,} bytes, which is too many "
            f"(at most {partial.max_bytes:,})"
        )
    free = shutil.disk_usage(partial.target.parent).free
    if remaining > free:
        needed = f"{remaining / 2**20:,.0f} MiB are needed and {free / 2**20:,.0f} MiB are free"
        raise _failure(address, partial.target, f"{needed} on the disk")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects that keep the connection as safe as it was."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request of the new address.

        Raises:
            DownloadError: if it may not be followed.
        """
        before = parse_address(req.full_url)
        try:
            after = parse_address(newurl)
        except DownloadError as error:
            raise DownloadError(f"{before}: the server redirects it to {error}") from error
        if before.scheme == "https" and after.scheme != "https":
            raise DownloadError(f"{before}: the server redirects it to {after}, without encryption")
        if after.is_loopback and not before.is_loopback:
            raise DownloadError(f"{before}: the server redirects it to this machine, {after}")
        return super().redirect_request(req, fp, code, msg, headers, after.url)


class _Proxies(urllib.request.ProxyHandler):
    """Proxies of the environment; what is on this machine is asked directly."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        """Direct a request to a proxy, unless it is of this machine."""
        if parse_address(req.full_url).is_loopback:
            return None
        return super().proxy_open(req, proxy, type)


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens http and https and nothing else."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Proxies(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
