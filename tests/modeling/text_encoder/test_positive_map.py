"""Positive maps and hierarchical supervision, compared with the published model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hipie.modeling.text_encoder.caption import vocabulary_caption
from hipie.modeling.text_encoder.positive_map import positive_map, propagate_part_to_whole
from hipie.modeling.text_encoder.tokenizer import tokenize
from hipie.vocabularies.vocabulary import Vocabulary

DATA = Path(__file__).parents[2] / "data" / "language"
PHRASES = (
    "person head",
    "person torso",
    "dog head",
    "dog tail",
    "person",
    "dog",
    "sky",
    "tvmonitor screen",
)


def tokenized(tokenizer, names: tuple[str, ...], length: int):
    tokens = tokenize(tokenizer, vocabulary_caption(Vocabulary.from_names(stuff=names)))
    ids = torch.zeros(length, dtype=torch.long)
    ids[: len(tokens.ids)] = torch.tensor(tokens.ids)
    return tokens.spans, ids


@pytest.mark.parametrize(
    ("names", "length", "key", "propagate"),
    [
        (PHRASES, 64, "plain", False),
        (PHRASES, 64, "part", True),
        (("person head", "dog"), 16, "part_single", True),
    ],
)
def test_official_maps(tokenizer, names, length: int, key: str, propagate: bool) -> None:
    spans, ids = tokenized(tokenizer, names, length)
    found = positive_map(spans, torch.arange(len(names)), length)
    if propagate:
        found = propagate_part_to_whole(found, ids, tokenizer=tokenizer)
    with np.load(DATA / "official_text.npz") as official:
        assert np.array_equal(found.numpy(), official[f"positive_map_{key}"])


def test_rows_follow_the_objects() -> None:
    spans = ((1,), (3, 4))
    found = positive_map(spans, torch.tensor([1, 0, 1]), 6)
    assert found.dtype == torch.bool
    assert [row.nonzero().flatten().tolist() for row in found] == [[3, 4], [1], [3, 4]]
    assert positive_map(spans, torch.zeros(0, dtype=torch.long), 6).shape == (0, 6)


def test_only_wholes_of_the_vocabulary_propagate(tokenizer) -> None:
    vocabulary = Vocabulary.from_names(stuff=["red house", "red sky"], parts={"house": ["roof"]})
    spans, ids = tokenized(tokenizer, vocabulary.names, 16)
    plain = positive_map(spans, torch.tensor([0, 1, 2]), 16)
    found = propagate_part_to_whole(plain, ids, vocabulary)
    house = ids == tokenizer.convert_tokens_to_ids("house")
    red = ids == tokenizer.convert_tokens_to_ids("red")
    assert found[0, house].all() and found[2, house].all()
    assert not found[1, house].any()
    assert (found[1] & red).sum() == 1
    assert torch.equal(propagate_part_to_whole(plain, ids, ()), plain)


@pytest.mark.parametrize(("times", "propagates"), [(1, False), (2, True), (29, True), (30, False)])
def test_number_of_occurrences_that_propagate(tokenizer, times: int, propagates: bool) -> None:
    spans, ids = [], [101]
    dog, other = tokenizer.convert_tokens_to_ids(["dog", "head"])
    for _ in range(times):
        spans.append((len(ids), len(ids) + 1))
        ids += [dog, other, 1012]
    plain = positive_map(spans, torch.tensor([0]), len(ids))
    found = propagate_part_to_whole(plain, torch.tensor(ids), tokenizer=tokenizer)
    assert int(found.sum()) == (times + 1 if propagates else 2)


def test_input_is_not_changed(tokenizer) -> None:
    spans, ids = tokenized(tokenizer, PHRASES, 32)
    plain = positive_map(spans, torch.arange(8), 32)
    before = plain.clone()
    propagate_part_to_whole(plain, ids, tokenizer=tokenizer)
    assert torch.equal(plain, before)
