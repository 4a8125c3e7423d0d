"""Records in one shared buffer against the list that they were made from."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode
from torch.utils.data import DataLoader

from hipie.data.datasets.catalog import register_dataset
from hipie.data.record_list import RecordList, read_records, share_records


def make_records(count: int) -> list[dict[str, Any]]:
    return [
        {
            "image_id": number // 2 if number % 3 else f"{number}",
            "file_name": f"{number % 7}.jpg",
            "width": number % 5,
            "height": 2,
            "mask": np.arange(number),
            "annotations": [{"bbox_mode": BoxMode.XYWH_ABS, "counts": bytes([number])}],
        }
        for number in range(count)
    ]


def as_text(records: Any) -> list[str]:
    return [repr(record) for record in records]


@pytest.mark.parametrize("count", [0, 1, 50])
def test_equal_to_the_list(count: int) -> None:
    expected = make_records(count)
    records = share_records(lambda: expected)
    assert isinstance(records, RecordList) and len(records) == count
    assert as_text(records) == as_text(expected)
    assert as_text(records[1:40:3]) == as_text(expected[1:40:3])
    for position in (count, -count - 1):
        with pytest.raises(IndexError):
            records[position]
    if count:
        assert repr(records[-1]) == repr(expected[-1])
    assert records.is_wide.tolist() == [r["width"] > r["height"] for r in expected]


def test_search_by_image_and_by_file() -> None:
    expected = make_records(50)
    records = share_records(lambda: expected)
    for key in ("image_id", "file_name"):
        for value in {record[key] for record in expected}:
            positions = [i for i, record in enumerate(expected) if record[key] == value]
            assert records.find_all(key, value) == positions
            position, record = records.find(key, value)
            assert (position, repr(record)) == (positions[-1], repr(expected[positions[-1]]))
    assert records.find_all("image_id", "1") == records.find_all("image_id", 999) == []
    assert repr(records.of_image(np.int64(5))) == repr(expected[11])
    assert repr(records.of_file("6.jpg")) == repr(expected[48])
    with pytest.raises(KeyError, match="999"):
        records.of_image(999)


def test_a_search_unpickles_a_record_once(monkeypatch: pytest.MonkeyPatch) -> None:
    records = share_records(lambda: make_records(50))
    loads, sizes = pickle.loads, []
    monkeypatch.setattr(
        "hipie.data.record_list.pickle.loads", lambda data: sizes.append(len(data)) or loads(data)
    )
    assert records.of_image("0")["file_name"] == "0.jpg" and len(sizes) == 1


def test_every_access_is_a_new_copy() -> None:
    records = share_records(lambda: make_records(2))
    records[0]["annotations"].clear()
    assert records[0]["annotations"]


def test_nothing_is_left_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    records = share_records(lambda: make_records(3))
    assert os.listdir(tmp_path) == [] and len(records[2]["mask"]) == 2

    def fail() -> list[dict[str, Any]]:
        assert len(os.listdir(tmp_path)) == 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        share_records(fail)
    assert os.listdir(tmp_path) == []


def test_reader_is_called_once_and_its_records_are_converted() -> None:
    calls = []

    def load() -> list[dict[str, Any]]:
        calls.append(1)
        MetadataCatalog.get("counted").set(colours=["red"])
        return [{"mask": np.zeros(number)} for number in range(4)]

    register_dataset("counted", load)
    records = read_records("counted", lambda given: [{"number": len(r["mask"])} for r in given])
    assert list(records) == [{"number": number} for number in range(4)]
    assert list(records)[3] == {"number": 3} and calls == [1]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_get_the_records(start_method: str) -> None:
    expected = make_records(6)
    loader = DataLoader(
        share_records(lambda: expected),
        batch_size=None,
        num_workers=1,
        multiprocessing_context=start_method,
    )
    assert [str(record["file_name"]) for record in loader] == [r["file_name"] for r in expected]
