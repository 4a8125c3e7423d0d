"""Availability of files on the Hugging Face hub, and loading from it without its messages."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils._headers import build_hf_headers

from hipie.errors import InputError, cause_of

TIMEOUT_SECONDS = 5.0


class HubError(InputError, OSError):
    """A file that is neither cached nor available on the hub.

    Args:
        message: the reason.
        status: HTTP status of the hub's response; None if there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def is_hub_name(name: str) -> bool:
    """Whether a name may be that of a repository of the hub, "owner/name" or "name"."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def check_hub_file(repository: str, file_names: Sequence[str]) -> None:
    """Check within seconds that a repository's file is cached or can be downloaded.

    The clients of transformers and open_clip retry for most of a minute; this makes one request.

    Args:
        repository: name on the hub, "owner/name" or "name".
        file_names: equivalent files, any of which may be cached; the first is requested.

    Raises:
        HubError: if no file is cached and the hub is offline, unreachable, or does not have it; if
            no repository can have this name.
    """
    if not is_hub_name(repository):
        raise HubError("no repository of the Hugging Face hub has such a name")
    if any(isinstance(try_to_load_from_cache(repository, name), str) for name in file_names):
        return
    if constants.HF_HUB_OFFLINE:
        raise HubError("it is not in the cache of the Hugging Face hub, which is set to offline")
    url = f"{constants.ENDPOINT}/{repository}/resolve/main/{file_names[0]}"
    request = urllib.request.Request(url, method="HEAD", headers=build_hf_headers())
    try:
        # The hub's own address.
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # nosec B310
            return
    except urllib.error.HTTPError as error:
        raise HubError(
            f"the Hugging Face hub returned status {error.code} for it", error.code
        ) from error
    except OSError as error:
        cause = getattr(error, "reason", error)
        cause = cause if isinstance(cause, BaseException) else error
        raise HubError(f"the Hugging Face hub cannot be reached ({cause_of(cause)})") from error


@contextmanager
def without_loading_messages() -> Iterator[None]:
    """Silence transformers' progress bars, and its table of weights that are left out."""
    from transformers.utils import logging as transformers_logging

    log: Any = transformers_logging
    level, progress = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if progress:
            log.enable_progress_bar()
