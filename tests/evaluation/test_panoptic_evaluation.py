"""Panoptic quality against panopticapi."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from panopticapi.evaluation import pq_compute
from panopticapi.utils import id2rgb
from PIL import Image

from hipie.data.datasets.catalog import register_dataset
from hipie.errors import InputError
from hipie.evaluation.panoptic_evaluation import PanopticEvaluator
from hipie.vocabularies.vocabulary import Vocabulary

KINDS = {"cat": 1, "dog": 1, "cow": 1, "sky": 0, "sea": 0}
SIZE = (40, 50)
COUNT = 6


def draw_segments(rng: np.random.Generator, kinds: list[int], crowds: bool) -> tuple:
    """Draw a map of rectangles with void between them, and its segments."""
    ids = np.zeros(SIZE, np.int64)
    numbers = rng.choice(np.arange(1, 2**24 - 1), 9, replace=False)
    for number in numbers:
        top, left = rng.integers(0, 30, 2)
        ids[top : top + rng.integers(4, 25), left : left + rng.integers(4, 25)] = number
    segments = []
    crowded: set[int] = set()
    for number in np.unique(ids[ids > 0]).tolist():
        category = int(rng.integers(len(kinds)))
        # COCO has at most one crowd of a class in an image.
        crowd = int(crowds and kinds[category] and category not in crowded and rng.random() < 0.3)
        crowded |= {category} if crowd else set()
        area = int((ids == number).sum())
        segments.append({"id": number, "category_id": category, "iscrowd": crowd, "area": area})
    return ids, segments


def disturb(rng: np.random.Generator, ids: np.ndarray, segments: list[dict], classes: int) -> tuple:
    """Shift a map, and change a few of its classes."""
    shifted = np.roll(ids, rng.integers(0, 4, 2), (0, 1))
    shifted[rng.random(SIZE) < 0.05] = 0
    found = [
        {
            "id": s["id"],
            "category_id": s["category_id"] if rng.random() < 0.8 else int(rng.integers(classes)),
        }
        for s in segments
        if (shifted == s["id"]).any()
    ]
    return shifted, found


def draw_set(folder: Path, names: list[str]) -> tuple[list[dict], list[tuple]]:
    """Draw a data set and predictions, and write both as panopticapi reads them."""
    rng = np.random.default_rng(len(names))
    kinds = [KINDS[name] for name in names]
    records, predictions, truth_json, prediction_json = [], [], [], []
    for part in ("truth", "predicted"):
        (folder / part).mkdir()
    for number in range(COUNT):
        ids, segments = draw_segments(rng, kinds, crowds=True)
        found_ids, found = disturb(rng, ids, segments, len(names))
        file_name = f"{number}.png"
        Image.fromarray(id2rgb(ids)).save(folder / "truth" / file_name)
        Image.fromarray(id2rgb(found_ids)).save(folder / "predicted" / file_name)
        shared = {"image_id": number, "file_name": file_name}
        truth_json.append({**shared, "segments_info": segments})
        prediction_json.append({**shared, "segments_info": found})
        records.append(
            {
                "file_name": f"{number}.jpg",
                "image_id": number,
                "height": SIZE[0],
                "width": SIZE[1],
                "pan_seg_file_name": str(folder / "truth" / file_name),
                "segments_info": [{**s, "area": 1} for s in segments],
            }
        )
        predictions.append((torch.from_numpy(found_ids), found))
    for name, entries in (("truth", truth_json), ("predicted", prediction_json)):
        content = {
            "images": [{"id": number} for number in range(COUNT)],
            "annotations": entries,
            "categories": [
                {"id": i, "name": name, "isthing": kind}
                for i, (name, kind) in enumerate(zip(names, kinds, strict=True))
            ],
        }
        (folder / f"{name}.json").write_text(json.dumps(content))
    things = [name for name in names if KINDS[name]]
    stuff = [name for name in names if not KINDS[name]]
    vocabulary = Vocabulary.from_names(things=things, stuff=stuff)
    assert list(vocabulary.names) == names
    register_dataset("drawn", lambda: records, vocabulary=vocabulary)
    return records, predictions


def evaluate(records: list[dict], predictions: list[tuple], folder: Path | None = None) -> dict:
    evaluator = PanopticEvaluator("drawn", folder and str(folder), distributed=False)
    evaluator.reset()
    for record, prediction in zip(records, predictions, strict=True):
        evaluator.process([record], [{"panoptic_seg": prediction}])
    return evaluator.evaluate()["panoptic_seg"]


def test_scores_are_those_of_panopticapi(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, predictions = draw_set(tmp_path, list(KINDS))
    scores = evaluate(records, predictions, tmp_path)
    expected = pq_compute(
        str(tmp_path / "truth.json"),
        str(tmp_path / "predicted.json"),
        str(tmp_path / "truth"),
        str(tmp_path / "predicted"),
    )
    for suffix, group in (("", "All"), ("_th", "Things"), ("_st", "Stuff")):
        for name in ("pq", "sq", "rq"):
            value = scores[name.upper() + suffix]
            assert 0 < value < 100
            assert value == pytest.approx(100 * expected[group][name])
    written = json.loads((tmp_path / "predictions.json").read_text())["annotations"]
    truth = json.loads((tmp_path / "predicted.json").read_text())["annotations"]
    assert written == truth


@pytest.mark.parametrize(("names", "empty"), [(["cat", "dog"], "_st"), (["sky", "sea"], "_th")])
def test_classes_of_one_kind(tmp_path: Path, names: list[str], empty: str) -> None:
    records, predictions = draw_set(tmp_path, names)
    scores = evaluate(records, predictions)
    other = {"_st": "_th", "_th": "_st"}[empty]
    assert scores["PQ"] == scores[f"PQ{other}"] > 0
    assert math.isnan(scores[f"PQ{empty}"]) and math.isnan(scores[f"RQ{empty}"])


def test_annotation_is_its_own_perfect_prediction(tmp_path: Path) -> None:
    records, _ = draw_set(tmp_path, list(KINDS))
    perfect = []
    for record in records:
        ids = np.array(Image.open(record["pan_seg_file_name"])).astype(np.int64) @ (1, 256, 65536)
        perfect.append((ids, record["segments_info"]))
    scores = evaluate(records, perfect)
    assert scores["PQ"] == scores["SQ"] == scores["RQ"] == 100


def test_map_of_labels_without_segments(tmp_path: Path) -> None:
    records, predictions = draw_set(tmp_path, list(KINDS))
    expected = evaluate(records, predictions)
    register_dataset(
        "drawn",
        lambda: records,
        vocabulary=Vocabulary.from_names(["cat", "dog", "cow"], ["sky", "sea"]),
        label_divisor=100,
    )
    labelled = []
    for ids, segments in predictions:
        labels = torch.full(SIZE, -1)
        for number, segment in enumerate(segments):
            labels[ids == segment["id"]] = 100 * segment["category_id"] + number
        labelled.append((labels, None))
    assert evaluate(records, labelled) == expected


def test_map_of_another_size_is_named(tmp_path: Path) -> None:
    records, _ = draw_set(tmp_path, list(KINDS))
    with pytest.raises(InputError, match=r"0\.png: the panoptic map has 50x40 pixels, the pred"):
        evaluate(records[:1], [(torch.zeros(3, 4), [])])
