"""Addresses of the models of the table, `hipie://NAME`, in the path manager of Detectron2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

from hipie.downloads import DownloadError
from hipie.errors import HipieError

PREFIX = "hipie://"


class ModelHandler(PathHandler):
    """Handler of `hipie://NAME`, the file of a model's weights.

    Args:
        find: returns the file of a model by its name.
    """

    def __init__(self, find: Callable[[str], Path]) -> None:
        self._find = find

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        try:
            return str(self._find(path.removeprefix(PREFIX)))
        except HipieError as error:
            raise DownloadError(str(error)) from error

    def _open(
        self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any
    ) -> IO[str] | IO[bytes]:
        if mode not in ("r", "rb"):
            raise DownloadError(f"{path}: weights of a model can be read, and not written")
        return open(self._get_local_path(path), mode, buffering)


def register(find: Callable[[str], Path]) -> None:
    """Register the handler; an earlier one is replaced."""
    PathManager.register_handler(ModelHandler(find), allow_override=True)
