"""Addresses that may be downloaded, and where their files are stored."""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

from hipie.errors import InputError

# Environment variable that permits http; processes that this one starts inherit it.
ALLOW_HTTP = "HIPIE_ALLOW_HTTP"
# Environment variable of the cache of fvcore, iopath and Detectron2.
FVCORE_CACHE = "FVCORE_CACHE"

MAX_ADDRESS = 4096
# Characters of an address that a message shows, and of a part of a path that a file name has.
MAX_SHOWN, MAX_NAME = 200, 150
# Characters of addresses that are requested as they are.
_URL_CHARACTERS = "%/:=&?~+!$,;'@()*[]"
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._~%+=@,()!$&-]")
# How often an encoded path may be encoded again.
_DECODINGS = 8


class DownloadError(InputError, OSError):
    """File that may not or cannot be downloaded; the message names its address.

    Args:
        message: one sentence.
        status: HTTP status of the server's response; None if there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Address:
    """Address of a server's file, checked.

    Attributes:
        url: percent-encoded, without a fragment.
        scheme: "https" or "http".
        host: name or IP address, in lower case.
        port: None = that of the scheme.
        path: percent-encoded, with its leading slash.
        query: percent-encoded, without the question mark.
    """

    url: str
    scheme: str
    host: str
    port: int | None
    path: str
    query: str

    def __str__(self) -> str:
        """Return the address for messages; a query may contain a password and is left out."""
        shown = self.url.partition("?")[0] + ("?..." if self.query else "")
        return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."

    @property
    def is_loopback(self) -> bool:
        """Whether the server is this machine: nothing is sent over a network."""
        return is_loopback(self.host)

    @property
    def file_name(self) -> str:
        """Name under which the file is stored."""
        name = _stored_name(self.path.rpartition("/")[2])
        if not self.query:
            return name
        stem, suffix = os.path.splitext(name)
        return f"{stem}-{_digest(self.query)}{suffix}"

    def cache_path(self) -> Path:
        """Return the place of the file in the cache: folders of the host and of the path."""
        host = f"{'http+' if self.scheme == 'http' else ''}{self.host.rstrip('.')}"
        host += f"+{self.port}" if self.port else ""
        folders = [_stored_name(part) for part in self.path.split("/")[:-1] if part]
        return cache_folder().joinpath(_stored_name(host), *folders, self.file_name)


def parse_address(url: str) -> Address:
    """Check an address: https, or http on this machine or with `--allow-http`.

    Raises:
        DownloadError: for another scheme, a name and password, or something that is no address.
    """
    shown = _shown(url)
    if len(url) > MAX_ADDRESS:
        raise DownloadError(f"{shown}: addresses have at most {MAX_ADDRESS} characters")
    if not url.isprintable() or " " in url or "\\" in url:
        raise DownloadError(f"{shown}: the address has characters that addresses do not have")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise DownloadError(f"{shown}: this is not a valid address") from error
    if parts.scheme not in ("http", "https"):
        raise DownloadError(f"{shown}: only https addresses are downloaded")
    if "@" in parts.netloc:
        raise DownloadError(f"{shown.rpartition('@')[2]}: addresses with a user name are refused")
    if not (_HOST.fullmatch(host) or _is_ip_address(host)):
        raise DownloadError(f"{shown}: the address names no host")
    if parts.scheme == "http" and not is_loopback(host) and not is_http_allowed():
        raise DownloadError(
            f"{shown}: http is not encrypted, so that anybody in between can change the file; use "
            f"https, or permit it by --allow-http (environment variable {ALLOW_HTTP}=1)"
        )
    return _address(parts, host, port)


def parse_file_address(url: str) -> Address:
    """Check an address like `parse_address`, and that its path names a file without `..`.

    Raises:
        DownloadError: also if the path has `..`, encoded or not, or no file name.
    """
    address = parse_address(url)
    decoded = address.path
    for _ in range(_DECODINGS):
        if decoded == (decoded := unquote(decoded)):
            break
    else:
        raise DownloadError(f"{address}: the path is encoded more than {_DECODINGS} times")
    if not decoded.isprintable() or {".", ".."} & set(re.split(r"[/\\]", decoded)):
        raise DownloadError(f"{address}: the path leaves its folder, or has control characters")
    if not address.path.rpartition("/")[2]:
        raise DownloadError(f"{address}: the address names no file")
    return address


def cache_folder() -> Path:
    """Return the folder of downloaded files.

    Returns:
        `FVCORE_CACHE` if it is set; otherwise the folder `hipie` in `XDG_CACHE_HOME` or ~/.cache.
    """
    chosen = os.environ.get(FVCORE_CACHE)
    if chosen:
        return Path(os.path.expanduser(chosen)).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.path.expanduser(cache), "hipie").absolute()


def is_http_allowed() -> bool:
    """Whether `--allow-http` or its environment variable permits addresses that are not https."""
    return os.environ.get(ALLOW_HTTP, "") not in ("", "0")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: `localhost`, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    return _is_ip_address(host) and ipaddress.ip_address(host).is_loopback


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--allow-http`, which holds for this process and those that it starts."""
    parser.add_argument(
        "--allow-http",
        nargs=0,
        action=SetVariable,
        const=ALLOW_HTTP,
        default=argparse.SUPPRESS,
        help="permit downloads that are not encrypted",
    )


class SetVariable(argparse.Action):
    """Argument without a value that sets the environment variable `const` to 1."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Set the variable."""
        os.environ[self.const] = "1"


def _address(parts: SplitResult, host: str, port: int | None) -> Address:
    path, query = quote(parts.path, _URL_CHARACTERS), quote(parts.query, _URL_CHARACTERS)
    netloc = f"[{host}]" if ":" in host else host
    netloc += "" if port is None else f":{port}"
    url = f"{parts.scheme}://{netloc}{path}" + (f"?{query}" if query else "")
    return Address(url, parts.scheme, host, port, path, query)


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def _stored_name(part: str) -> str:
    """Return a part of a path as a file name: no hidden one, of plain characters, not too long."""
    name = _NOT_IN_NAMES.sub(lambda match: f"%{ord(match[0]):02X}", part)
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) <= MAX_NAME:
        return name
    stem, suffix = os.path.splitext(name)
    suffix = suffix if len(suffix) < 16 else ""
    return f"{stem[: MAX_NAME - 40]}-{_digest(part)}{suffix}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shown(url: str) -> str:
    """Return any text as one line of printable characters, cut, without a query."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in url[: MAX_SHOWN + 1])
    shown, mark, _ = shown.partition("?") if shown.startswith("http") else (shown, "", "")
    shown += "?..." if mark else ""
    return shown if len(shown) <= MAX_SHOWN + 4 else f"{shown[:MAX_SHOWN]}..."
