"""The pickle reader that runs nothing."""

from __future__ import annotations

import collections
import functools
import operator
import os
import pickle
import random
import subprocess

import numpy as np
import pytest

from hipie.checkpoint.safe_pickle import RefusedPickle, read_plain_pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_content_comes_back(tmp_path, protocol):
    content = {
        "model": collections.OrderedDict(a=np.arange(6, dtype="f4").reshape(2, 3)),
        "numbers": [1, 2.5, True, None, (3,), np.float64(7.5), np.int64(3)],
        "__author__": "somebody",
        "empty": np.zeros((0, 4), "i8"),
    }
    file = tmp_path / "plain.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    read = read_plain_pickle(file)
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
    assert read_plain_pickle(file).tolist() == [1.0, 2.0]


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
    "an odd container": (collections.Counter, "aab"),
}


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "trap.pkl"
    file.write_bytes(pickle.dumps({"model": {"a": Calls(*TRAPS[name])}}, protocol))
    with pytest.raises(RefusedPickle, match="it asks for"):
        read_plain_pickle(file)
    assert os.listdir(tmp_path) == ["trap.pkl"]


@pytest.mark.parametrize("encoding", [b"rot13", b"zlib_codec", b"utf-16"])
def test_of_the_codecs_only_latin_1_is_known(tmp_path, encoding):
    file = tmp_path / "codec.pkl"
    file.write_bytes(b"c_codecs\nencode\n(S'abc'\nS'" + encoding + b"'\ntR.")
    with pytest.raises(RefusedPickle, match="encoding"):
        read_plain_pickle(file)


def test_every_truncation_and_many_mutations_give_one_kind_of_error(tmp_path):
    whole = pickle.dumps({"model": {"a": np.ones(20, "f4"), "b": [1, "x"]}, "__author__": "y"})
    file = tmp_path / "broken.pkl"
    rng = random.Random(7)
    broken = [whole[:length] for length in range(len(whole))]
    for _ in range(300):
        content = bytearray(whole)
        content[rng.randrange(len(content))] = rng.randrange(256)
        broken.append(bytes(content))
    refused = 0
    for content in broken:
        file.write_bytes(content)
        try:
            read_plain_pickle(file)
        except pickle.UnpicklingError:
            refused += 1
    assert refused >= len(whole)
