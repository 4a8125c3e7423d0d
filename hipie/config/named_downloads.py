"""Downloads and code that a configuration of somebody else asks for: warnings and refusals."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from hipie.code_permission import ALLOW_IMPORTS, are_imports_allowed
from hipie.config.loading import import_names
from hipie.config.reading import ConfigError, FindBase, read_with_sources
from hipie.downloads import DownloadError
from hipie.downloads.address import parse_file_address
from hipie.downloads.path_handlers import server_address
from hipie.errors import printable
from hipie.logs import get_logger

logger = get_logger(__name__)

# What addresses begin with.
_ADDRESSES = ("http://", "https://", "ftp://", "detectron2://", "catalog://", "hf://", "hf-hub:")
# Keys that may name a repository of the Hugging Face hub.
_HUB_KEYS = ("MODEL.HIPIE.TEXT.SOURCE",)


def warn_about_downloads(
    cfg: CfgNode, file: Path, own_folders: Sequence[Path], find_base: FindBase | None = None
) -> None:
    """Name the downloads that a file, or a base of it, asks for, before the first one starts.

    Files of the package are not named, nor are files that are in the cache, nor values that the
    command line has replaced.

    Args:
        cfg: the merged configuration.
        file: the configuration file.
        own_folders: folders of configurations of this package and its projects.
        find_base: see `read_with_bases`.
    """
    if not comm.is_main_process():
        return
    for key, value, source in _foreign_values(file, own_folders, find_base):
        if not _is_download(key, value) or value not in _texts(_value_of(cfg, key)):
            continue
        origin = "" if value.startswith(_ADDRESSES) else " from the Hugging Face hub"
        _warn_once(f"{source}: {key} asks for the download of {printable(value)}{origin}")


def require_permitted_imports(
    file: Path,
    own_folders: Sequence[Path],
    permitted: Sequence[str],
    find_base: FindBase | None = None,
) -> None:
    """Check that the user permits the code of `IMPORTS` in a file, or a base of it.

    Files of the package may import; so may all with `--allow-imports` or its variable.

    Args:
        file: the configuration file.
        own_folders: folders of configurations of this package and its projects.
        permitted: modules and files that the user has named.
        find_base: see `read_with_bases`.

    Raises:
        ConfigError: naming the file and the modules that are not permitted.
    """
    if are_imports_allowed():
        return
    named = {_module_key(name) for name in permitted}
    for key, value, source in _foreign_values(file, own_folders, find_base):
        if key != "IMPORTS":
            continue
        refused = [name for name in import_names(value, source) if _module_key(name) not in named]
        if refused:
            raise ConfigError(
                f"{source}: IMPORTS would run the Python code of {printable(', '.join(refused))}; "
                f"read it, and permit it by --import {printable(refused[0])} or --allow-imports "
                f"(environment variable {ALLOW_IMPORTS}=1)"
            )


def _module_key(name: str) -> str:
    """Return what two names of the same module, or of the same file, have in common."""
    return os.path.realpath(name) if name.endswith(".py") else name


def _foreign_values(
    file: Path, own_folders: Sequence[Path], find_base: FindBase | None
) -> Iterator[tuple[str, str, str]]:
    """Yield key, text and file of every text that no file of the package sets."""
    own = [os.path.realpath(folder) for folder in own_folders]
    content, sources = read_with_sources(str(file), find_base)
    for key, source in sources.items():
        path = os.path.realpath(source)
        if any(path.startswith(folder + os.sep) for folder in own):
            continue
        for text in _texts(_value_of(content, key)):
            yield key, text, source


def _is_download(key: str, value: str) -> bool:
    if not value.startswith(_ADDRESSES):
        is_repository = value.count("/") == 1 and not value.startswith((".", "/", "~"))
        return key in _HUB_KEYS and is_repository and not os.path.exists(value)
    try:
        return not parse_file_address(server_address(value)).cache_path().is_file()
    except DownloadError:
        return True


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for part in value for text in _texts(part)] if isinstance(value, list) else []


def _value_of(content: Any, key: str) -> Any:
    """Return a value by its full name; None if there is none any more."""
    return reduce(lambda node, name: (node or {}).get(name), key.split("."), content)


@lru_cache(maxsize=1000)
def _warn_once(message: str) -> None:
    logger.warning(message)
