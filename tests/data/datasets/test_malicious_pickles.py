"""More than fifty pickles that would run something: none does, each is refused by name."""

from __future__ import annotations

import collections
import functools
import importlib
import operator
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hipie.data.datasets import DatasetError
from hipie.data.io.safe_pickle import UnsafePickleError, array_to_list, read_plain_pickle


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


MARK = ("touch ran",)
CALLS = {
    "system": (os.system, *MARK),
    "popen": (os.popen, *MARK),
    "run": (subprocess.run, "touch ran"),
    "Popen": (subprocess.Popen, ["touch", "ran"]),
    "eval": (eval, "open('ran', 'w')"),
    "exec": (exec, "open('ran', 'w')"),
    "open": (open, "ran", "w"),
    "import": (importlib.import_module, "antigravity"),
    "rmtree": (shutil.rmtree, "."),
    "getattr": (getattr, "a", "upper"),
    "partial": (functools.partial, os.system),
    "attrgetter": (operator.attrgetter, "system"),
    "mkdir": (os.mkdir, "ran"),
    "write": (Path.write_text, Path("ran"), "x"),
    "load": (np.load, "ran"),
    "counter": (collections.Counter, "aab"),
}
BYTES = {
    "a name": b"cos\nsystem\n.",
    "a call": b"cos\nsystem\n(S'touch ran'\ntR.",
    "an instance": b"(S'touch ran'\nios\nsystem\n.",
    "an object": b"(cos\nsystem\nS'touch ran'\no.",
    "a name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.",
    "a new object": b"\x80\x02csubprocess\nPopen\nX\x05\x00\x00\x00touch\x85\x81.",
    "a new object with keys": b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.",
    "a state": b"\x80\x02}}b.",
    "a persistent object": b"\x80\x02K\x01Q.",
    "a persistent line": b"Pabc\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "a long extension": b"\x80\x02\x84\x01\x00\x00\x00.",
    "a buffer": b"\x80\x05\x97.",
    "a name in a list": b"\x80\x02]cbuiltins\neval\na.",
    "a builtin of Python 2": b"c__builtin__\neval\n(S'1'\ntR.",
    "NumPy's own loader": b"cnumpy\nload\n(S'ran'\ntR.",
}


def malicious() -> dict[str, bytes]:
    found = dict(BYTES)
    for name, (function, *arguments) in CALLS.items():
        for protocol in (0, 2, 4):
            refs = [{"ref_id": 1, "sentences": [Calls(function, *arguments)]}]
            found[f"{name}, protocol {protocol}"] = pickle.dumps(refs, protocol)
    return found


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize("name", malicious())
def test_refused(tmp_path: Path, monkeypatch, name: str, arrays: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs.p").write_bytes(malicious()[name])
    with pytest.raises(DatasetError, match=r"refs\.p: this pickle is"):
        read_plain_pickle(tmp_path / "refs.p", arrays=arrays)
    assert os.listdir(tmp_path) == ["refs.p"]


def test_more_than_fifty() -> None:
    assert len(malicious()) > 50


def test_other_codecs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.pkl").write_bytes(b"c_codecs\nencode\n(S'abc'\nS'rot13'\ntR.")
    with pytest.raises(UnsafePickleError, match='the encoding "rot13"'):
        read_plain_pickle(tmp_path / "t.pkl", arrays=True)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_on_request(tmp_path: Path, protocol: int) -> None:
    content = {1: {"bbox": np.array([[1.5, 2]]), "ids": np.array([1, 2]), "area": np.float64(7)}}
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_plain_pickle(tmp_path / "t.pkl", arrays=True)[1]
    assert array_to_list(found["bbox"]) == [[1.5, 2.0]] and array_to_list(found["ids"]) == [1, 2]
    assert found["area"] == 7.0
    with pytest.raises(UnsafePickleError, match="it needs"):
        read_plain_pickle(tmp_path / "t.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_kind_of_value(tmp_path: Path, protocol: int) -> None:
    content = [
        *(0, 1, 255, 256, 65536, -1, 2**40, -(2**80), 10**400, 1.5, None, True, False),
        *("", "é" * 300, "a\nb", b"", b"x" * 300, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        *([], {}, {"a": {"b": [1]}}, "x" * 70_000),
    ]
    content = [one for one in content if protocol > 2 or not isinstance(one, bytes)]
    content.append(content[-1])
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(content, protocol))
    assert read_plain_pickle(tmp_path / "t.pkl") == content
