"""Files of archives: none leaves its folder, replaces another file, or fills the disk."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from hipie.data.preparation.sources import SourceError, SourceFiles

HOSTILE = [
    "/etc/passwd",
    "../up.jpg",
    "train/../../up.jpg",
    "train//abs/path.jpg",
    "train/./a.jpg",
    "C:/a.jpg",
    "train/..\\up.jpg",
    "train/a\x1b[2J.jpg",
    "train/a\nb.jpg",
    "__MACOSX/train/a.jpg",
]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "got").mkdir()
    return tmp_path / "got", tmp_path / "root"


@pytest.mark.parametrize("name", HOSTILE)
def test_members_that_leave_their_folder_are_not_seen(folders, name: str) -> None:
    got, root = folders
    with zipfile.ZipFile(got / "x.zip", "w") as archive:
        archive.writestr(name, "hostile")
        archive.writestr("train/good.jpg", "good")
    files = SourceFiles(got)
    below = files.below("train")
    assert below == {"good.jpg": "x/train/good.jpg"}
    files.copy_all([(source, root / relative) for relative, source in below.items()], "images")
    assert [path.name for path in root.rglob("*")] == ["good.jpg"]


def test_links_in_archives_are_not_seen(folders) -> None:
    got, _ = folders
    link = zipfile.ZipInfo("train/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(got / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert SourceFiles(got).below("train") == {}


@pytest.mark.parametrize("folder", ["train", "TRAIN", "images/İst", "images/İST"])
def test_folders_are_found_without_case_by_their_components(folders, folder: str) -> None:
    got, _ = folders
    with zipfile.ZipFile(got / "x.zip", "w") as archive:
        archive.writestr("İİİ/train/images/İst/a.jpg", "a")
    expected = "images/İst/a.jpg" if "t" in folder[:1].lower() else "a.jpg"
    found = SourceFiles(got).below(folder)
    assert list(found) == [expected] and not any(name.startswith("/") for name in found)


def test_an_existing_file_of_another_size_is_kept(folders) -> None:
    got, root = folders
    (got / "a.jpg").write_text("downloaded")
    root.mkdir()
    (root / "a.jpg").write_text("mine")
    with pytest.raises(SourceError, match=r"root/a\.jpg: it exists and is not the downloaded"):
        SourceFiles(got).copy("a.jpg", root / "a.jpg")
    assert (root / "a.jpg").read_text() == "mine"


def test_links_at_the_target_are_kept(folders, tmp_path: Path) -> None:
    got, root = folders
    (got / "a.jpg").write_text("downloaded")
    root.mkdir()
    (root / "a.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(SourceError, match="it exists"):
        SourceFiles(got).copy_all([("a.jpg", root / "a.jpg")], "images")
    assert not (tmp_path / "elsewhere.jpg").exists()


def test_free_disk_is_checked_before_the_first_file(folders, monkeypatch) -> None:
    got, root = folders
    for name in ("a.jpg", "b.jpg"):
        (got / name).write_bytes(bytes(1000))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9999, 0, 1999))
    pairs = [(name, root / name) for name in ("a.jpg", "b.jpg")]
    with pytest.raises(SourceError, match="2 files of .* do not fit"):
        SourceFiles(got).copy_all(pairs, "images")
    assert not root.exists()


def test_too_many_members_are_refused(folders, monkeypatch) -> None:
    got, _ = folders
    monkeypatch.setattr("hipie.data.preparation.sources.MAX_MEMBERS", 2)
    with zipfile.ZipFile(got / "x.zip", "w") as archive:
        for index in range(3):
            archive.writestr(f"{index}", "")
    with pytest.raises(SourceError, match="more than 2 files"):
        SourceFiles(got)
