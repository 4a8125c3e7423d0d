"""The three photographs: taken from an archive, checked, and not fetched twice."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.exit_status import exit_status

_PROGRAM = Path(__file__).parents[2] / "datasets" / "prepare_photos.py"


@pytest.fixture
def program(monkeypatch):
    """The program, expecting two small files instead of the photographs."""
    spec = importlib.util.spec_from_file_location("prepare_photos", _PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = {"annotations.json": b"{}", "JPEGImages/1.jpg": b"an image"}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(module, "SHA256", digests)
    module.files = files
    return module


def archive(folder: Path, files: dict[str, bytes], inside: str) -> Path:
    path = folder / "made.tar.gz"
    with tarfile.open(path, "w:gz") as content:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{inside}/{name}")
            entry.size = len(data)
            content.addfile(entry, io.BytesIO(data))
    return path


def test_files_are_written_and_not_fetched_again(program, tmp_path, monkeypatch, capsys):
    made = archive(tmp_path, program.files, program.INSIDE)
    monkeypatch.setattr(program, "download", lambda folder: made)
    root = tmp_path / "photos"
    assert exit_status(program.main, ["--root", str(root)]) == 0
    assert (root / "JPEGImages/1.jpg").read_bytes() == b"an image"
    monkeypatch.setattr(program, "download", lambda folder: pytest.fail("fetched twice"))
    assert exit_status(program.main, ["--root", str(root)]) == 0
    assert "exist" in capsys.readouterr().out


def test_a_damaged_file_is_fetched_again(program, tmp_path, monkeypatch):
    made = archive(tmp_path, program.files, program.INSIDE)
    monkeypatch.setattr(program, "download", lambda folder: made)
    root = tmp_path / "photos"
    exit_status(program.main, ["--root", str(root)])
    (root / "JPEGImages/1.jpg").write_bytes(b"an imXge")
    assert not program.is_complete(root)
    exit_status(program.main, ["--root", str(root)])
    assert program.is_complete(root)


def test_a_file_of_another_size_is_kept(program, tmp_path, monkeypatch, capsys):
    made = archive(tmp_path, program.files, program.INSIDE)
    monkeypatch.setattr(program, "download", lambda folder: made)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/annotations.json").write_text("my own")
    assert exit_status(program.main, ["--root", str(tmp_path / "photos")]) == 1
    assert "it exists and is another file" in capsys.readouterr().err
    assert (tmp_path / "photos/annotations.json").read_text() == "my own"


def test_another_file_of_that_name_is_refused(program, tmp_path, monkeypatch, capsys):
    made = archive(tmp_path, {**program.files, "JPEGImages/1.jpg": b"other"}, program.INSIDE)
    monkeypatch.setattr(program, "download", lambda folder: made)
    assert exit_status(program.main, ["--root", str(tmp_path / "photos")]) == 1
    assert "JPEGImages/1.jpg has another checksum than expected" in capsys.readouterr().err
    assert not (tmp_path / "photos/JPEGImages/1.jpg").exists()


def test_an_archive_without_them_is_named(program, tmp_path, monkeypatch, capsys):
    made = archive(tmp_path, {"other.txt": b""}, program.INSIDE)
    monkeypatch.setattr(program, "download", lambda folder: made)
    assert exit_status(program.main, ["--root", str(tmp_path / "photos")]) == 1
    assert ": made.tar.gz has no labelme" in capsys.readouterr().err


def test_failing_pip_is_reported_in_one_line(program, tmp_path, monkeypatch, capsys):
    def fail(command):
        assert "--require-hashes" in command and "--no-deps" in command
        wanted = next(word for word in command if word.startswith("--requirement="))
        assert "labelme==" in Path(wanted.removeprefix("--requirement=")).read_text()
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(program.subprocess, "run", fail)
    assert exit_status(program.main, ["--root", str(tmp_path / "photos")]) == 1
    assert ": pip could not download" in capsys.readouterr().err
