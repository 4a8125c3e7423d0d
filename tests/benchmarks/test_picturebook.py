"""Tests of `benchmarks/picturebook.py`: computations by hand, and the program on a tiny model."""

from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from benchmarks import picturebook


def test_pixels_are_classified_by_the_nearest_colour():
    colours = np.array([[0, 0, 0], [250, 0, 0], [0, 0, 250]], np.uint8)
    classifier = picturebook.NearestColourClassifier(colours, np.array([2, 0, 5]))
    image = np.array([[[10, 5, 0], [255, 30, 20]], [[0, 0, 200], [0, 0, 250]]], np.uint8)
    assert classifier(image).tolist() == [[2, 0], [5, 5]]


def test_equal_colours_have_the_majority_class():
    colours = np.array([[9, 9, 9]] * 3 + [[200, 0, 0]], np.uint8)
    classifier = picturebook.NearestColourClassifier(colours, np.array([1, 4, 4, 0]))
    assert classifier(np.full((1, 1, 3), 9, np.uint8)).tolist() == [[4]]


def test_shuffled_expressions_are_complete_and_of_other_pages():
    pages = [["a1", "a2"], ["b1"], ["c1", "c2", "c3"], ["d1", "d2"]]
    shuffled = picturebook.shuffle_expressions(pages)
    assert [len(page) for page in shuffled] == [2, 1, 3, 2]
    assert sorted(chain.from_iterable(shuffled)) == sorted(chain.from_iterable(pages))
    for own, other in zip(pages, shuffled):
        assert not set(own) & set(other)


def test_single_page_cannot_be_shuffled():
    with pytest.raises(ValueError, match="too few pages"):
        picturebook.shuffle_expressions([["a", "b"], ["c"]])


def test_colour_miou_is_higher_on_the_training_pages(tiny_cfg, monkeypatch):
    unseen = picturebook.colour_miou(3)
    records = DatasetCatalog.get("picturebook_val_panoptic")
    monkeypatch.setattr(picturebook.DatasetCatalog, "get", lambda name: records)
    monkeypatch.setattr(picturebook, "PIXELS_PER_PAGE", 10**6)
    assert 0 < unseen < picturebook.colour_miou(3) <= 100


def test_table_shows_which_bounds_are_met():
    results = {
        "colours": {"mIoU": 36.0},
        "expressions": {"oIoU": 40.0, "oIoU-shuffled": 20.0},
        "pairs": {"oIoU-seen": 40.0, "oIoU-pair": 19.0, "oIoU-class": 3.0},
    }
    rows = {line.split("|")[1].strip(): line for line in picturebook.table(results).splitlines()}
    assert "at most 35.0: NOT MET" in rows["mIoU of the nearest colour"]
    assert "at most 20.0: met" in rows["oIoU, expressions of other pages"]
    assert "at least 20.0: NOT MET" in rows["oIoU, withheld pairs"]


def test_program_writes_every_measurement(tiny_program, tmp_path, capsys):
    results = picturebook.main(["--pages", "3", *tiny_program])
    written = json.loads((tmp_path / "found" / "results.json").read_text())
    assert set(results) == set(written) == set(picturebook.MEASUREMENTS)
    count = sum(len(r["expressions"]) for r in DatasetCatalog.get("picturebook_val_refer"))
    assert results["expressions"]["num_expressions"] == count
    records = DatasetCatalog.get("picturebook_unseen_refer")
    total = sum(results["pairs"][f"num_expressions-{key}"] for key in ("seen", "pair", "class"))
    assert total == sum(len(record["expressions"]) for record in records)
    held_out = [e for r in records for e in r["expressions"] if e["held_out"]]
    assert results["pairs"]["num_expressions-seen"] == total - len(held_out)
    assert 0 <= results["expressions"]["oIoU"] <= 100
    assert "| oIoU, expressions of the page |" in capsys.readouterr().out


def test_missing_weights_are_reported(tiny_program):
    option = tiny_program.index("--weights")
    arguments = tiny_program[:option] + tiny_program[option + 2 :]
    with pytest.raises(SystemExit, match="--weights FILE"):
        picturebook.main(["--measurements", "classes", *arguments])
