"""Pickle reader that runs no code."""

from __future__ import annotations

import collections
import functools
import operator
import os
import pathlib
import pickle
import random
import subprocess

import numpy as np
import pytest
import torch

from hipie.checkpoint import read_state
from hipie.checkpoint.safe_pickle import (
    DTypeStandIn,
    UnsafePickleError,
    read_pickle,
    resolve_stand_ins,
    scalar,
)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_content_is_read(tmp_path, protocol):
    content = {
        "model": collections.OrderedDict(a=np.arange(6, dtype="f4").reshape(2, 3)),
        "numbers": [1, 2.5, True, None, (3,), np.float64(7.5), np.int64(3)],
        "__author__": "somebody",
        "empty": np.zeros((0, 4), "i8"),
    }
    file = tmp_path / "plain.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    read = read_pickle(file)
    np.testing.assert_array_equal(read["model"]["a"], content["model"]["a"])
    assert read["model"]["a"].dtype == np.float32
    assert read["numbers"] == content["numbers"]
    assert read["empty"].shape == (0, 4)


def test_arrays_of_python_2_and_numpy_1_are_read(tmp_path):
    stream = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntb."
    )
    file = tmp_path / "old.pkl"
    file.write_bytes(stream)
    assert read_pickle(file).tolist() == [1.0, 2.0]


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


TRAPS = {
    "a command": (os.system, "true"),
    "a process": (subprocess.Popen, ["true"]),
    "eval": (eval, "1"),
    "import": (__import__, "os"),
    "getattr": (getattr, "a", "upper"),
    "open": (open, "x", "w"),
    "a partial": (functools.partial, print),
    "an attribute getter": (operator.attrgetter, "system"),
    "numpy's loader": (np.load, "x"),
    "a file": (pathlib.Path.read_text, pathlib.Path("x")),
    "torch's loader": (torch.load, "x"),
    "an iterator": (map, print, [1]),
}


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_that_name_code_are_refused(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "trap.pkl"
    file.write_bytes(pickle.dumps({"model": {"a": Calls(*TRAPS[name])}}, protocol))
    with pytest.raises(UnsafePickleError, match="it names"):
        read_pickle(file)
    assert os.listdir(tmp_path) == ["trap.pkl"]


@pytest.mark.parametrize("encoding", [b"rot13", b"zlib_codec", b"utf-16"])
def test_other_encodings_than_latin_1_are_refused(tmp_path, encoding):
    file = tmp_path / "codec.pkl"
    file.write_bytes(b"c_codecs\nencode\n(S'abc'\nS'" + encoding + b"'\ntR.")
    with pytest.raises(UnsafePickleError, match="encoding"):
        read_pickle(file)


def test_damaged_pickles_raise_unpickling_errors(tmp_path):
    complete = pickle.dumps({"model": {"a": np.ones(20, "f4"), "b": [1, "x"]}, "__author__": "y"})
    file = tmp_path / "broken.pkl"
    rng = random.Random(7)
    broken = [complete[:length] for length in range(len(complete))]
    for _ in range(300):
        content = bytearray(complete)
        content[rng.randrange(len(content))] = rng.randrange(256)
        broken.append(bytes(content))
    refused = 0
    for content in broken:
        file.write_bytes(content)
        try:
            read_pickle(file)
        except pickle.UnpicklingError:
            refused += 1
    assert refused >= len(complete)


KINDS = ["f2", "f4", "f8", ">f4", "i1", "i8", ">i4", "u1", "u2", "?", "c8"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read(tmp_path, kind, protocol, order):
    array = np.asarray(np.arange(12).reshape(3, 4) % 5, dtype=kind, order=order)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([array, array[0, 1]], protocol))
    read, number = read_pickle(tmp_path / "x.pkl")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("=")
    assert number == array[0, 1]
    assert read.flags.writeable


@pytest.mark.parametrize("kind", ["f4", ">i4", "?"])
def test_arrays_in_torch_files_are_read(tmp_path, kind):
    array = np.asarray([[1, 0, 1]], dtype=kind)
    torch.save({"model": {"a": torch.ones(1)}, "array": array}, tmp_path / "x.pth")
    np.testing.assert_array_equal(read_state(tmp_path / "x.pth")["array"], array)


@pytest.mark.parametrize(
    "array",
    [
        np.array([{"a": 1}], dtype=object),
        np.array(["word"]),
        np.array([b"bytes"]),
        np.zeros(2, dtype=[("x", "f4"), ("y", "i4")]),
        np.array(["2026-01-01"], dtype="M8[D]"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_objects_are_refused(tmp_path, array):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": array}))
    with pytest.raises(pickle.UnpicklingError):
        read_pickle(tmp_path / "x.pkl")


def test_missing_bytes_are_an_error():
    with pytest.raises(ValueError, match=r"cannot reshape|buffer size"):
        scalar(DTypeStandIn("f8"), b"\0" * 3)


def test_containers_keep_their_type():
    content = {"a": [1, (2, "x")], "b": DTypeStandIn("f4")}
    assert resolve_stand_ins(content) == {"a": [1, (2, "x")], "b": np.dtype("f4")}
