"""The benchmark's parts give what can be worked out by hand; the program runs on a tiny model."""

from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from benchmarks import picturebook


def test_a_pixel_is_named_after_the_nearest_colour():
    colours = np.array([[0, 0, 0], [250, 0, 0], [0, 0, 250]], np.uint8)
    classifier = picturebook.NearestColour(colours, np.array([2, 0, 5]))
    picture = np.array([[[10, 5, 0], [255, 30, 20]], [[0, 0, 200], [0, 0, 250]]], np.uint8)
    assert classifier(picture).tolist() == [[2, 0], [5, 5]]


def test_of_one_colour_the_majority_names():
    colours = np.array([[9, 9, 9]] * 3 + [[200, 0, 0]], np.uint8)
    classifier = picturebook.NearestColour(colours, np.array([1, 4, 4, 0]))
    assert classifier(np.full((1, 1, 3), 9, np.uint8)).tolist() == [[4]]


def test_shuffled_sentences_are_all_there_and_of_other_pages():
    pages = [["a1", "a2"], ["b1"], ["c1", "c2", "c3"], ["d1", "d2"]]
    shuffled = picturebook.shuffled_sentences(pages)
    assert [len(one) for one in shuffled] == [2, 1, 3, 2]
    assert sorted(chain.from_iterable(shuffled)) == sorted(chain.from_iterable(pages))
    for own, other in zip(pages, shuffled):
        assert not set(own) & set(other)


def test_one_page_cannot_be_shuffled():
    with pytest.raises(ValueError, match="too few pages"):
        picturebook.shuffled_sentences([["a", "b"], ["c"]])


def test_colours_alone_recognise_themselves(tiny_cfg, monkeypatch):
    """Learnt from the very pages that are asked, they do better than on unseen ones."""
    unseen = picturebook.colour_miou(3)
    records = DatasetCatalog.get("picturebook_val_panoptic")
    monkeypatch.setattr(picturebook.DatasetCatalog, "get", lambda name: records)
    monkeypatch.setattr(picturebook, "PIXELS_A_PAGE", 10**6)
    assert 0 < unseen < picturebook.colour_miou(3) <= 100


def test_the_table_says_which_bounds_are_broken():
    found = {
        "colours": {"mIoU": 36.0},
        "sentences": {"oIoU": 40.0, "oIoU-shuffled": 20.0},
        "pairs": {"oIoU-seen": 40.0, "oIoU-pair": 19.0, "oIoU-class": 3.0},
    }
    rows = {line.split("|")[1].strip(): line for line in picturebook.table(found).splitlines()}
    assert "at most 35.0: BROKEN" in rows["mIoU of the nearest colour"]
    assert "at most 20.0: kept" in rows["oIoU, sentences of other pages"]
    assert "at least 20.0: BROKEN" in rows["oIoU, pairs never seen"]


def test_the_program_answers_every_question(tiny_program, tmp_path, capsys):
    found = picturebook.main(["--pages", "3", *tiny_program])
    written = json.loads((tmp_path / "found" / "results.json").read_text())
    assert set(found) == set(written) == set(picturebook.QUESTIONS)
    sentences = sum(len(r["expressions"]) for r in DatasetCatalog.get("picturebook_val_refer"))
    assert found["sentences"]["sentences"] == sentences
    pages = DatasetCatalog.get("picturebook_unseen_refer")
    asked = sum(found["pairs"][f"sentences-{key}"] for key in ("seen", "pair", "class"))
    assert asked == sum(len(record["expressions"]) for record in pages)
    new = [s for r in pages for s in r["expressions"] if s["held_out"]]
    assert found["pairs"]["sentences-seen"] == asked - len(new)
    assert 0 <= found["sentences"]["oIoU"] <= 100
    assert "| oIoU, true sentences |" in capsys.readouterr().out


def test_without_weights_it_says_so(tiny_program):
    place = tiny_program.index("--weights")
    words = tiny_program[:place] + tiny_program[place + 2 :]
    with pytest.raises(SystemExit, match="--weights FILE"):
        picturebook.main(["--questions", "classes", *words])
