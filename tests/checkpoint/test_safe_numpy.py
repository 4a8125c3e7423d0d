"""Arrays out of pickles: every plain kind, and none that is not plain."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from hipie.checkpoint import read_state
from hipie.checkpoint.safe_numpy import DType, resolved, scalar
from hipie.checkpoint.safe_pickle import read_plain_pickle

KINDS = ["f2", "f4", "f8", ">f4", "i1", "i8", ">i4", "u1", "u2", "?", "c8"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back(tmp_path, kind, protocol, order):
    array = np.asarray(np.arange(12).reshape(3, 4) % 5, dtype=kind, order=order)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([array, array[0, 1]], protocol))
    read, number = read_plain_pickle(tmp_path / "x.pkl")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype.newbyteorder("=")
    assert number == array[0, 1]
    assert read.flags.writeable


@pytest.mark.parametrize("kind", ["f4", ">i4", "?"])
def test_arrays_inside_torch_files_come_back(tmp_path, kind):
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
def test_arrays_of_other_things_are_refused(tmp_path, array):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a": array}))
    with pytest.raises(pickle.UnpicklingError):
        read_plain_pickle(tmp_path / "x.pkl")


def test_too_few_bytes_are_refused():
    with pytest.raises(ValueError, match=r"cannot reshape|buffer size"):
        scalar(DType("f8"), b"\0" * 3)


def test_containers_keep_their_kind():
    content = {"a": [1, (2, "x")], "b": DType("f4")}
    assert resolved(content) == {"a": [1, (2, "x")], "b": np.dtype("f4")}
