"""Recognition of held-out names: prompts, counts against direct computation, tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from benchmarks import open_vocabulary_photographs as program
from hipie.vocabularies.vocabulary import Vocabulary

NAMES = ["horse", "cat", "dog", "kitten", "truck"]
ANIMALS = Vocabulary.from_names(things=NAMES)


def test_every_class_has_the_name_of_another_one() -> None:
    for seed in range(20):
        shuffled = program.shuffle_names(ANIMALS, seed)
        assert sorted(shuffled.names) == sorted(NAMES)
        assert all(a != b for a, b in zip(shuffled.names, NAMES, strict=True))
    assert program.shuffle_names(ANIMALS, 3) == program.shuffle_names(ANIMALS, 3)


def test_synonyms_are_no_names_of_the_set() -> None:
    replaced, synonyms = program.replace_synonyms(ANIMALS)
    assert synonyms == {2: "puppy", 4: "lorry"}
    assert list(replaced.names) == ["horse", "cat", "puppy", "kitten", "lorry"]


def test_groups() -> None:
    groups = program.groups_of(ANIMALS, ["horse", "dog", "pizza"])
    assert groups == {"held out": {0, 2}, "trained": {1, 3, 4}, "synonyms": {4}}


def test_best_mask() -> None:
    """Masks are cropped to the image, which is at the top left of the canvas."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(6, 32, 48)).astype(np.float32))
    objects = torch.from_numpy(rng.random((3, 20, 40)) > 0.6)
    found = program.best_mask_ious(logits, (32, 48), objects)
    for mask, iou in zip(objects.numpy(), found.tolist(), strict=True):
        guesses = logits.numpy()[:, :20, :40] > 0
        ious = [(mask & g).sum() / (mask | g).sum() for g in guesses]
        assert iou == pytest.approx(max(ious), abs=1e-6)


def test_pixels_without_an_object_do_not_count() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(-1, 4, size=(30, 20))
    predicted = rng.integers(0, 5, size=(30, 20))
    classes = [0, 1, 2, 3]
    masks = np.stack([truth == c for c in classes])
    counts = [program.ClassCounts() for _ in range(5)]
    arguments = (torch.from_numpy(predicted), torch.from_numpy(masks), classes)
    program.count_pixels(counts, "names", *arguments)
    inside = truth >= 0
    for c in range(5):
        assert counts[c].intersection["names"] == ((truth == c) & (predicted == c)).sum()
        assert counts[c].union["names"] == (inside & ((truth == c) | (predicted == c))).sum()


def test_summary_and_tables() -> None:
    counts = [program.ClassCounts() for _ in NAMES]
    for index, (objects, right) in {0: (8, 3), 2: (12, 9), 4: (10, 5)}.items():
        counts[index].objects, counts[index].mask_iou = objects, 0.5 * objects
        counts[index].named |= {"names": right, "shuffled": 1, "synonyms": right - 2}
        counts[index].intersection["names"], counts[index].union["names"] = right, 20
    variants = program.VARIANTS
    summary = program.summarize(counts, {0, 1, 2}, variants)
    assert summary is not None and summary["classes"] == 2 and summary["objects"] == 20
    assert summary["mask_iou"] == pytest.approx(50)
    assert summary["names"]["miou"] == pytest.approx(100 * (3 / 20 + 9 / 20) / 2)
    interval = binomtest(12, 20).proportion_ci(method="wilson")
    assert summary["names"]["naming"] == pytest.approx(60)
    assert summary["names"]["low"] == pytest.approx(100 * interval.low, abs=1e-4)
    assert summary["names"]["high"] == pytest.approx(100 * interval.high, abs=1e-4)
    assert program.summarize(counts, {1, 3}, variants) is None
    text = program.tables(
        {
            "animals": {
                "chance": 20.0,
                "held out": summary,
                "trained": program.summarize(counts, {4}, variants),
                "synonyms": program.summarize(counts, {4}, variants),
            }
        }
    )
    held_out, trained, synonym = [line for line in text.splitlines() if "animals" in line]
    assert held_out.startswith("| animals | 2 held out | 20 | 60.0 (38.7 to 78.1) | 20.0 | 10.0 (")
    assert held_out.endswith("| 50.0 | 30.0 | 0.0 |")
    assert trained.startswith("| animals | 1 trained | 10 | 50.0 (")
    assert synonym.startswith("| animals | 1 | 10 | 50.0 (23.7 to 76.3) | 30.0 (")
