from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from hipie.data.picturebook.files import locked, read_json, write_bytes, write_json, write_png


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"old": 1})

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_bytes(path, b"new")
    assert read_json(path) == {"old": 1}
    assert list(path.parent.iterdir()) == [path]


def test_png_keeps_labels_and_the_order_of_channels(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_png(tmp_path / "grey.png", grey)
    assert np.array_equal(cv2.imread(str(tmp_path / "grey.png"), -1), grey)
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[..., 0] = 200
    write_png(tmp_path / "colour.png", colour)
    assert (cv2.imread(str(tmp_path / "colour.png"))[..., 2] == 200).all()


def test_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(ValueError, match="x.json"):
        read_json(tmp_path / "x.json")


def test_lock_is_released(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "folder" / ".lock"):
            assert (tmp_path / "folder" / ".lock").exists()
