"""MATLAB files as scipy writes and reads them, and damaged ones."""

from __future__ import annotations

import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from hipie.data.io import matlab as matlab_file
from hipie.data.io.matlab import read_matlab
from tests.pascal_part_files import structs

MUTANTS = 600


def content() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    kinds = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
    numbers = {f"of_{kind}": rng.integers(0, 99, (3, 4)).astype(kind) for kind in kinds}
    inner = [{"part_name": name, "mask": rng.integers(0, 2, (5, 7))} for name in ("head", "é")]
    rows = [
        {"name": "a dog", "parts": structs(inner, ("part_name", "mask"))},
        {"name": "", "parts": structs([], ("part_name", "mask"))},
    ]
    more = {
        "cube": rng.random((2, 3, 4)),
        "truth": np.array([[True, False]]),
        "none": np.zeros((0, 3)),
    }
    return {**numbers, **more, "word": "LabelMap", "rows": structs(rows, ("name", "parts"))}


def plain(value: Any) -> Any:
    """What scipy reads, in this reader's forms."""
    if value.dtype.names:
        return [{name: plain(one[name]) for name in value.dtype.names} for one in value.reshape(-1)]
    if value.dtype.kind == "U":
        return str(value.reshape(-1)[0]) if value.size else ""
    return value.tolist()


def listed(value: Any) -> Any:
    if isinstance(value, list):
        return [{name: listed(one) for name, one in row.items()} for row in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("compressed", [True, False])
def test_as_scipy_reads_it(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, content(), do_compression=compressed)
    wanted = {k: plain(v) for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    found = read_matlab(path)
    assert {name: listed(value) for name, value in found.items()} == wanted
    assert found["of_u2"].shape == (3, 4) and found["cube"].shape == (2, 3, 4)
    assert found["rows"][0]["parts"][1]["part_name"] == "é" and len(found["rows"][1]["parts"]) == 0


def test_the_other_order_of_bytes(tmp_path: Path) -> None:
    """A table that is written out by hand, from the high byte to the low one."""

    def element(kind: int, values: Any, dtype: str) -> bytes:
        data = np.asarray(values, dtype=dtype).tobytes()
        tag = np.array([kind, len(data)], dtype=">u4").tobytes()
        return tag + data + bytes(-len(data) % 8)

    body = element(6, [6, 0], ">u4") + element(5, [2, 2], ">i4")
    body += element(1, list(b"m"), ">i1") + element(4, [1, 2, 3, 258], ">u2")
    matrix = np.array([14, len(body)], dtype=">u4").tobytes() + body
    path = tmp_path / "a.mat"
    path.write_bytes(bytes(124) + b"\x01\x00MI" + matrix)
    assert read_matlab(path)["m"].tolist() == [[1, 3], [2, 258]]


def test_what_is_not_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mat"
    for value, kind in ((np.array([["a", 1]], dtype=object), 1), (np.array([1j]), 6)):
        scipy.io.savemat(path, {"strange": value})
        with pytest.raises(ValueError, match=f'"strange" has the unsupported array class {kind}'):
            read_matlab(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file" + bytes(600))
    with pytest.raises(ValueError, match="not a MATLAB file of version 5"):
        read_matlab(path)
    scipy.io.savemat(path, {"zeros": np.zeros((100, 100))}, do_compression=True)
    monkeypatch.setattr(matlab_file, "MAX_UNPACKED_BYTES", 5000)
    with pytest.raises(ValueError, match="cannot be decompressed into 5000 bytes"):
        read_matlab(path)


def test_fields_of_other_classes_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    cells = np.empty((2, 1), dtype=object)
    cells[:, 0] = [scipy.sparse.csc_matrix(np.eye(3)), "word"]
    fields = {"cells": cells, "kept": 7.0, "sparse": scipy.sparse.csc_matrix(np.eye(3)), "z": "a"}
    scipy.io.savemat(path, {"row": fields})
    (row,) = read_matlab(path)["row"]
    assert list(row) == ["kept", "z"] and float(row["kept"][0, 0]) == 7 and row["z"] == "a"


@pytest.mark.parametrize("way", ["plain", "compressed", "damaged inside"])
def test_damaged_files_give_one_kind_of_error(tmp_path: Path, way: str) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, content(), do_compression=way == "compressed")
    whole, draw, refused = path.read_bytes(), random.Random(5), 0
    for _ in range(MUTANTS):
        data = bytearray(whole)
        if draw.random() < 0.2:
            data = data[: draw.randrange(len(data))]
        for _ in range(draw.randint(1, 4)):
            if data:
                data[draw.randrange(len(data))] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
        if way == "damaged inside":
            inside = zlib.compress(bytes(data[128:]))
            tag = np.array([15, len(inside)], dtype="<u4").tobytes()
            data = whole[:128] + tag + inside
        path.write_bytes(data)
        try:
            read_matlab(path)
        except ValueError:
            refused += 1
    assert refused > MUTANTS // 20
