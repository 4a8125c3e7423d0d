"""Handlers of addresses in the path managers of Detectron2, fvcore and iopath.

Importing this module registers them in place of iopath's, which join the path of an address to
their cache as it is. `detectron2://` and `catalog://` lead to addresses of the same manager.
"""

from __future__ import annotations

from typing import IO, Any

import detectron2.checkpoint.catalog  # noqa: F401 - registers catalog://
from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.utils.file_io import Detectron2Handler, PathManager
from fvcore.common.file_io import PathManager as FvcorePathManager
from iopath.common.file_io import OneDrivePathHandler, PathHandler, g_pathmgr

from hipie.downloads.address import DownloadError
from hipie.downloads.transfer import download

CATALOG = "catalog://"


class AddressHandler(PathHandler):
    """Handler of `https://` and `http://`: files are downloaded by `download`.

    `ftp://` is refused.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return ["http://", "https://", "ftp://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        return str(download(path, force=force))

    def _open(
        self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any
    ) -> IO[str] | IO[bytes]:
        if mode not in ("r", "rb"):
            raise DownloadError(f"{path}: an address can be read, and not written")
        return open(self._get_local_path(path, **kwargs), mode, buffering)


class OneDriveHandler(AddressHandler):
    """Handler of OneDrive's short addresses."""

    def _get_supported_prefixes(self) -> list[str]:
        return [OneDrivePathHandler.ONE_DRIVE_PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        direct: str = OneDrivePathHandler().create_one_drive_direct_download(path)
        return super()._get_local_path(direct, force, **kwargs)


def server_address(path: str) -> str:
    """Return the https address that `detectron2://` or `catalog://` stands for; others unchanged.

    Raises:
        DownloadError: for a name that Detectron2's catalog does not have.
    """
    if path.startswith(Detectron2Handler.PREFIX):
        name = path.removeprefix(Detectron2Handler.PREFIX)
        return f"{Detectron2Handler.S3_DETECTRON2_PREFIX}{name}"
    if path.startswith(CATALOG):
        try:
            address: str = ModelCatalog.get(path.removeprefix(CATALOG))
        except (KeyError, RuntimeError) as error:
            raise DownloadError(
                f"{path}: Detectron2's catalog has no model of this name"
            ) from error
        return address
    return path


for _manager in (PathManager, FvcorePathManager, g_pathmgr):
    _manager.register_handler(AddressHandler())
    _manager.register_handler(OneDriveHandler())
