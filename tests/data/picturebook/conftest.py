"""A small picture book on disk, drawn once for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from hipie.data.picturebook import write_split

SMALL = {"train": 6, "val": 4, "unseen": 5}


@pytest.fixture(scope="session")
def small_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("book")
    for split, count in SMALL.items():
        write_split(root, 0, split, count, groups=2 if split == "val" else 0)
    return root
