from __future__ import annotations

import pytest

from hipie.data.datasets import register_picturebook


@pytest.fixture(scope="module")
def drawn_book(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Register a small picture book under the default names."""
    register_picturebook(
        seed=5, counts={"train": 2, "val": 3, "unseen": 3}, root=tmp_path_factory.mktemp("book")
    )
    yield
    register_picturebook()
