"""Detectron2's, fvcore's and iopath's path managers download by the checked way."""

from __future__ import annotations

import pytest
from detectron2.utils.file_io import PathManager
from fvcore.common.file_io import PathManager as FvcorePathManager
from iopath.common.file_io import g_pathmgr

import hipie.downloads.path_handlers as path_handlers
from hipie.checkpoint import CheckpointError
from hipie.checkpoint.read import local_file
from hipie.downloads import DownloadError

MANAGERS = [PathManager, FvcorePathManager, g_pathmgr]


@pytest.mark.parametrize("manager", MANAGERS)
def test_managers_download_and_refuse(manager, server, cache):
    url = server.serve("/a/model.pth", b"weights")
    path = manager.get_local_path(url)
    assert path.startswith(str(cache))
    with manager.open(url, "rb") as file:
        assert file.read() == b"weights"
    for refused in (server.url("/../../x"), "ftp://a.org/x", "http://a.org/x"):
        with pytest.raises(DownloadError):
            manager.get_local_path(refused)
        with pytest.raises(DownloadError):
            manager.open(refused, "r")
    with pytest.raises(DownloadError):
        manager.open(url, "w")


@pytest.mark.parametrize("start", ["detectron2://", "catalog://ImageNetPretrained/MSRA/R-50"])
def test_names_of_detectron2_are_downloaded_by_the_checked_way(monkeypatch, start):
    urls = []

    def record(url, **options):
        urls.append(url)
        return "/file"

    monkeypatch.setattr(path_handlers, "download", record)
    name = start if start.startswith("catalog") else f"{start}a/model.pkl"
    assert PathManager.get_local_path(name) == "/file"
    assert urls == [path_handlers.server_address(name)]
    assert urls[0].startswith("https://dl.fbaipublicfiles.com/detectron")


def test_onedrive_has_no_handler_of_its_own(monkeypatch):
    urls = []
    monkeypatch.setattr(path_handlers, "download", lambda url, **_: urls.append(url) or "/file")
    assert PathManager.get_local_path("https://1drv.ms/u/s!abc") == "/file"
    assert urls[0].startswith("https://api.onedrive.com/")


@pytest.mark.parametrize(
    "path", ["detectron2://../../../../x", "catalog://nothing", "catalog://ImageNetPretrained/x"]
)
def test_weights_of_wrong_names_are_one_sentence(path):
    with pytest.raises(CheckpointError) as caught:
        local_file(path)
    assert "\n" not in str(caught.value)


def test_weights_are_downloaded(server, cache):
    assert local_file(server.serve("/a/model.pth", b"weights")).read_bytes() == b"weights"
    with pytest.raises(CheckpointError, match="the path leaves its folder"):
        local_file(server.url("/../../../x"))
