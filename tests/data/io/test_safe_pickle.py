"""Pickles may hold data, not code."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest

from hipie.data.io.safe_pickle import UnsafePickleError, read_plain_pickle

REFS = [
    {
        "ref_id": 1,
        "sentences": [{"raw": "caf\u00e9", "tokens": ["caf\u00e9"]}],
        "ok": (True, None, 1.5),
    }
]


class Shell:
    def __reduce__(self):
        return (Path.write_text, (Path("ran"), "code ran"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "refs.p").write_bytes(pickle.dumps(REFS, protocol=protocol))
    assert read_plain_pickle(tmp_path / "refs.p") == REFS


def test_python_2_pickle(tmp_path: Path) -> None:
    (tmp_path / "refs.p").write_bytes(b"(lp0\n(dp1\nS'raw'\np2\nS'a dog'\np3\nsa.")
    assert read_plain_pickle(tmp_path / "refs.p") == [{"raw": "a dog"}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", [[Shell()], [OrderedDict(a=1)], [Path("x")]])
def test_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, content: list
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs.p").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(UnsafePickleError, match=r"refs.p: this pickle is not plain data"):
        read_plain_pickle(tmp_path / "refs.p")
    assert not (tmp_path / "ran").exists()


def test_outside_objects_are_refused(tmp_path: Path) -> None:
    (tmp_path / "refs.p").write_bytes(b"\x80\x02K\x01Q.")
    with pytest.raises(UnsafePickleError, match="from outside the file"):
        read_plain_pickle(tmp_path / "refs.p")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(REFS)[:-9]])
def test_damaged_pickle_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "refs.p").write_bytes(content)
    with pytest.raises(ValueError, match="refs.p: this pickle is damaged or incomplete"):
        read_plain_pickle(tmp_path / "refs.p")


def test_missing_pickle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="refs.p"):
        read_plain_pickle(tmp_path / "refs.p")
