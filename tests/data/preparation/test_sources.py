"""Files of archives: none leaves its folder, replaces another file, or fills the disk."""

from __future__ import annotations

import io
import shutil
import stat
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from hipie.data.preparation.sources import SourceError, SourceFiles, read_tar_members

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


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        (tar_member("a", tarfile.SYMTYPE, "/etc/passwd"), b"", "damaged|regular file"),
        (tar_member("a", tarfile.LNKTYPE, "../../b"), b"", "damaged|regular file"),
        (tar_member("a", tarfile.FIFOTYPE), b"", "damaged|regular file"),
        (tar_member("a", tarfile.CHRTYPE), b"", "damaged|regular file"),
        (tar_member("a"), bytes(2000), "2,000 bytes, and at most 1,000"),
    ],
)
def test_hostile_members_of_tar_archives_are_refused(tmp_path, member, content, message) -> None:
    archive = tar_of(tmp_path / "x.tar.gz", (tar_member("b"), b"good"), (member, content))
    assert read_tar_members(archive, {"b": 10}) == {"b": b"good"}
    with pytest.raises(SourceError, match=message):
        read_tar_members(archive, {"a": 1000, "b": 10})


@pytest.mark.parametrize("name", ["../up", "a/../../up"])
def test_members_that_leave_a_tar_archive_are_refused(tmp_path: Path, name: str) -> None:
    archive = tar_of(tmp_path / "x.tar.gz", (tar_member(name), b"hostile"))
    with pytest.raises(SourceError, match="damaged"):
        read_tar_members(archive, {name: 1000})


def test_damaged_tar_archives_are_named(tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "x.tar.gz", (tar_member("a"), bytes(range(256)) * 99))
    data = archive.read_bytes()
    for cut in (0, 5, len(data) // 2):
        archive.write_bytes(data[:cut])
        with pytest.raises(SourceError, match=r"x\.tar\.gz: this tar archive is damaged"):
            read_tar_members(archive, {"a": 10**6})
