"""A small picture book, drawn once, and the options that lead a command to it."""

from __future__ import annotations

import pytest

from hipie.data.datasets import register_picturebook


@pytest.fixture(scope="session")
def small_book_root(tmp_path_factory):
    """Where the pages are drawn when they are first used."""
    return tmp_path_factory.mktemp("small_book")


@pytest.fixture
def small_book(small_book_root):
    """Options of a command line; afterwards the usual book is registered again."""
    yield ["--opts", "PICTUREBOOK.ROOT", str(small_book_root), "PICTUREBOOK.VAL_PAGES", "5"]
    register_picturebook()
