"""Pickles may hold data, not code."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest

from hipie import pickle_scan
from hipie.checkpoint.safe_pickle import reconstruct, scalar
from hipie.data.io.safe_pickle import UnsafePickleError, read_plain_pickle
from tests.limits import call_limited

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


PROTOCOL = b"\x80\x02"
BOMBS = {
    "lists twice in the next": PROTOCOL + b"]q\x00" + b"(h\x00h\x00lq\x00" * 60 + b".",
    "lists twice in a row of dicts": PROTOCOL
    + b"]q\x00" + b"(h\x00h\x00lq\x00" * 30 + b"}U\x01a(h\x00h\x00ls.",
    "tuples twice in the next, as a key": PROTOCOL + b"})" + b"q\x00h\x00\x86" * 60 + b"Ns.",
    "deep tuple as a key": PROTOCOL + b"})" + b"\x85" * 150_000 + b"Ns.",
    "deep frozenset": b"\x80\x04" + b"(" * 20_000 + b"\x91" * 20_000 + b".",
    "wide tuples in a tuple, as a key": PROTOCOL
    + b"}" + b"(" + b"K\x01" * 20_000 + b"tq\x000(" + b"h\x00" * 20_000 + b"tNs.",
    "deep list": PROTOCOL + b"]q\x00" + b"](h\x00eq\x00" * 200 + b".",
    "list in itself": PROTOCOL + b"]q\x00h\x00a.",
    "integer of 3,000 bytes": PROTOCOL + b"}\x8b\xb8\x0b\0\0" + b"x" * 3000 + b"Ns.",
    "sets, one a byte": b"\x80\x04" + b"\x8f" * 120_000 + b".",
    "marks, one a byte": b"\x80\x04" + b"(" * 120_000 + b".",
}  # fmt: skip
DAMAGED = {
    "memo of 2**32 in eight bytes": PROTOCOL + b"]r\xff\xff\xff\xff.",
    "memo of 10**9 in a line": b"(lp1000000000\n.",
    "array of 2**62 bytes": b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b".",
    "bytes of 2**62": b"\x80\x05\x8e" + (2**62).to_bytes(8, "little") + b".",
    "frame of 2**40": b"\x80\x05\x95" + (2**40).to_bytes(8, "little") + b"N.",
    "digits": b"I" + b"9" * 10_000 + b"\n.",
}
STATES = {
    "a function": b"cnumpy.core.multiarray\n_reconstruct\n}U\x08__name__U\x01xsb.",
    "defaults of a function": b"cnumpy.core.multiarray\nscalar\n(N}U\x0c__defaults__)stb.",
    "a class": b"cnumpy\ndtype\n(NN}U\x04codeU\x02f4stb.",
    "a list": b"](NNtb.",
    "a dict": b"}}U\x01xK\x01sb.",
}


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize("name", [*BOMBS, *DAMAGED])
def test_small_files_stay_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arrays: bool
) -> None:
    # 5,000,000 containers take seconds; a limit is tested with less.
    limit = 100_000 if "one a byte" in name else pickle_scan.MAX_CONTAINERS
    monkeypatch.setattr(pickle_scan, "MAX_CONTAINERS", limit)
    (tmp_path / "refs.p").write_bytes((BOMBS | DAMAGED)[name])
    outcome = call_limited(read_plain_pickle, tmp_path / "refs.p", arrays)
    reason = "is not plain data" if name in BOMBS else "is damaged or incomplete"
    assert f"refs.p: this pickle {reason}" in outcome, outcome
    assert len(outcome) < 300


@pytest.mark.parametrize("name", STATES)
def test_only_arrays_and_data_types_have_a_state(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.pkl").write_bytes(PROTOCOL + STATES[name])
    before = reconstruct.__name__, dict(vars(reconstruct)), scalar.__defaults__
    with pytest.raises(UnsafePickleError, match="state"):
        read_plain_pickle(tmp_path / "t.pkl", arrays=True)
    assert (reconstruct.__name__, dict(vars(reconstruct)), scalar.__defaults__) == before


def test_values_that_occur_often_are_no_bomb(tmp_path: Path) -> None:
    shared = ["left", ("of", "the"), {"box": [1, 2, 3, 4]}]
    content = [{"tokens": shared, "again": shared, (1, 2, ("a", "b")): 1} for _ in range(2000)]
    (tmp_path / "refs.p").write_bytes(pickle.dumps(content, 2))
    assert read_plain_pickle(tmp_path / "refs.p") == content


def test_other_files_than_regular_ones_are_named(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "this is a folder"), (Path("/dev/zero"), "not a regular")):
        assert message in call_limited(read_plain_pickle, path)
