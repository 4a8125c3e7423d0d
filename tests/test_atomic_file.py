"""Atomic writing of files: in every way in which the package writes one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hipie.atomic_file import open_replaced, replaced_file
from hipie.checkpoint.atomic_write import write_atomically
from hipie.data.picturebook.files import write_bytes
from hipie.evaluation.results_io import write_json
from hipie.result_files import replace_file

WRITERS: dict[str, Callable[[Path], object]] = {
    "checkpoint": lambda path: write_atomically(path, lambda name: Path(name).write_text("new")),
    "result": lambda path: replace_file(path, lambda file: file.write(b"new")),
    "picture book": lambda path: write_bytes(path, b"new"),
    "metrics": lambda path: write_json(path, "new"),
    "stream": lambda path: _write_stream(path),
}


def _write_stream(path: Path) -> None:
    with open_replaced(path) as stream:
        stream.write(b"new")


@pytest.mark.parametrize("name", WRITERS)
def test_links_at_the_target_and_planted_ones_are_not_followed(name, tmp_path, monkeypatch) -> None:
    path, victim = tmp_path / "folder" / f"{'x' * 250}", tmp_path / "victim"
    victim.write_text("mine")
    path.parent.mkdir()
    path.symlink_to(victim)
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)
    planted = path.with_name(f".{'x' * 40}.{os.getpid()}.{'0' * 16}.partial")
    planted.symlink_to(victim)
    with pytest.raises((OSError, ValueError)):
        WRITERS[name](path)
    assert victim.read_text() == "mine" and path.is_symlink() and planted.is_symlink()
    monkeypatch.undo()
    planted.unlink()
    WRITERS[name](path)
    assert victim.read_text() == "mine"
    assert not path.is_symlink() and "new" in path.read_text()
    assert os.listdir(path.parent) == [path.name]


def test_an_exception_keeps_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), replaced_file(path) as temporary:
            temporary.write_text("half")
            raise error
    assert os.listdir(tmp_path) == ["a"] and path.read_text() == "before"
