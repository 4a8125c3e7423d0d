"""RefCOCO and gRefCOCO files, small and hand made."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import pytest

from hipie.data.datasets import DatasetError, load_refcoco


def expression(number: int, words: str) -> dict:
    return {"sent_id": number, "raw": words, "sent": words.lower(), "tokens": words.split()}


def ref(number: int, annotation, split: str = "train", image: int = 1, *words: str) -> dict:
    expressions = [
        expression(10 * number + i, text) for i, text in enumerate(words or ("The dog",))
    ]
    return {
        "ref_id": number,
        "ann_id": annotation,
        "image_id": image,
        "category_id": 1,
        "split": split,
        "file_name": f"COCO_{image}_{annotation}.jpg",
        "sentences": expressions,
    }


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 30} for i in (2, 1)],
        "annotations": [
            {
                "id": 100 + i,
                "image_id": 1 if i < 4 else 2,
                "category_id": 1,
                "bbox": [0, 0, i + 1, 1],
                "segmentation": [[0, 0, i + 1, 0, i + 1, 1]],
                "iscrowd": int(i == 3),
            }
            for i in range(6)
        ],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path / "instances.json"


def load(folder: Path, refs: list[dict], split: str, as_json: bool = False) -> list[dict]:
    if as_json:
        path = folder / "grefs(unc).json"
        path.write_text(json.dumps(refs))
    else:
        path = folder / "refs(unc).p"
        path.write_bytes(pickle.dumps(refs, protocol=2))
    return load_refcoco(path, folder / "instances.json", folder / "images", split)


def test_expressions_are_grouped_by_image(instances: Path) -> None:
    refs = [
        ref(5, 104, "train", 2),
        ref(1, 101, "train", 1, "The dog", "Dog LEFT"),
        ref(2, 100, "train", 1),
        ref(3, 101, "train", 1, "same dog"),
        ref(4, 102, "val", 1),
    ]
    records = load(instances.parent, refs, "train")
    assert [record["image_id"] for record in records] == [1, 2]
    first = records[0]
    assert first["file_name"] == str(instances.parent / "images" / "1.jpg")
    assert (first["height"], first["width"]) == (20, 30)
    assert [one["expression"] for one in first["expressions"]] == [
        "The dog",
        "Dog LEFT",
        "The dog",
        "same dog",
    ]
    assert [one["targets"] for one in first["expressions"]] == [[0], [0], [1], [0]]
    assert [one["id"] for one in first["annotations"]] == [101, 100]
    assert first["expressions"][1]["sent_id"] == 11 and first["expressions"][1]["ref_id"] == 1


def test_several_targets_none_and_crowds(instances: Path) -> None:
    refs = [ref(1, [100, 102]), ref(2, [-1]), ref(3, [101, 103])]
    (record,) = load(instances.parent, refs, "train", as_json=True)
    assert [len(one["targets"]) for one in record["expressions"]] == [2, 0, 1]


@pytest.mark.parametrize(
    ("wanted", "found"), [("testA", [1, 3]), ("testB", [2, 3]), ("test", [1, 2, 3]), ("val", [4])]
)
def test_splits(instances: Path, wanted: str, found: list[int]) -> None:
    splits = ("testA", "testB", "testAB", "val", "train")
    refs = [ref(i, 100, split) for i, split in enumerate(splits, 1)]
    (record,) = load(instances.parent, refs, wanted)
    assert [one["ref_id"] for one in record["expressions"]] == found


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (ref(9, 999), "ref 9 names annotation 999, which does not exist"),
        (ref(9, 105), "ref 9 names annotation 105, which is of image 2"),
        (ref(9, 100, "train", 8), "ref 9 is of image 8, which .* does not list"),
    ],
)
def test_faults_are_named(instances: Path, bad: dict, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        load(instances.parent, [bad], "train")


def test_entries_without_a_field(instances: Path) -> None:
    bad = ref(1, 100)
    del bad["ann_id"]
    with pytest.raises(DatasetError, match='entry 0 has no "ann_id"'):
        load(instances.parent, [bad], "train")


def test_not_a_list(instances: Path) -> None:
    with pytest.raises(DatasetError, match="expected a list of refs, not a dict"):
        load(instances.parent, {"refs": []}, "train")


def test_a_split_that_is_not_there(instances: Path) -> None:
    with pytest.raises(DatasetError, match='no ref belongs to the split "testC"'):
        load(instances.parent, [ref(1, 100)], "testC")


def test_expressions_about_crowds_are_left_out(
    instances: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refs = [ref(1, 103, "train", 1, "the herd", "cows"), ref(2, [102, 103]), ref(3, -1)]
    with caplog.at_level(logging.WARNING):
        (record,) = load(instances.parent, refs, "train", as_json=True)
    assert [(e["ref_id"], len(e["targets"])) for e in record["expressions"]] == [(2, 1), (3, 0)]
    assert record["left_out"] == {"expression about a crowd": 2}
    assert "2 expressions of the split" in caplog.text and "are about crowds" in caplog.text


def test_splits_about_crowds_only_are_refused(instances: Path) -> None:
    with pytest.raises(DatasetError, match='all 1 expressions .*"train" are about crowds'):
        load(instances.parent, [ref(1, 103)], "train")


def test_all_wrong_refs_are_named(instances: Path) -> None:
    refs = [ref(k, 900 + k) for k in range(13)]
    with pytest.raises(DatasetError, match=r"13 entries are wrong: ref 0 .*ref 9 .*; and 3 more"):
        load(instances.parent, refs, "train")
