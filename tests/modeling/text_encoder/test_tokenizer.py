"""Tokens and the positions of classes, against the published numbers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from hipie.modeling.text_encoder.caption import Caption, expression_caption, vocabulary_caption
from hipie.modeling.text_encoder.tokenizer import count_pieces, load_tokenizer, tokenize
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

DATA = Path(__file__).parents[2] / "data" / "language"
OFFICIAL = json.loads((DATA / "official_tokens.json").read_text())


@pytest.mark.parametrize("case", ["r50_small_det12", "r50_small_det133"])
def test_official_ids_and_spans(tokenizer, case: str) -> None:
    spec = OFFICIAL[case]
    classes = [VocabularyClass(name, kind) for name, kind in spec["classes"]]
    read = tokenize(tokenizer, vocabulary_caption(Vocabulary(classes)))
    assert list(read.ids) == spec["input_ids"]
    assert [list(span) for span in read.spans] == spec["class_tokens"]


def test_official_expression(tokenizer) -> None:
    spec = OFFICIAL["r50_small_refer"]
    read = tokenize(tokenizer, expression_caption(spec["expression"]))
    assert list(read.ids) == spec["input_ids"]
    assert read.spans == (tuple(range(1, len(read.ids) - 1)),)


def test_spans_hold_the_word_pieces_of_the_name_alone(tokenizer) -> None:
    names = ["traffic light", "tvmonitor screen", "sky-other", "door, bars", "crème brûlée", "中文"]
    read = tokenize(tokenizer, vocabulary_caption(Vocabulary.from_names(names)))
    for name, span in zip(names, read.spans, strict=True):
        alone = tokenizer(name, add_special_tokens=False)["input_ids"]
        assert [read.ids[position] for position in span] == alone


def test_a_name_that_begins_and_ends_with_spaces(tokenizer) -> None:
    read = tokenize(tokenizer, Caption("  dog  . cat", ((0, 7), (9, 12))))
    assert [read.ids[span[0]] for span in read.spans] == tokenizer.convert_tokens_to_ids(
        ["dog", "cat"]
    )
    assert [len(span) for span in read.spans] == [1, 1]


def test_a_name_without_word_pieces_is_named(tokenizer) -> None:
    with pytest.raises(ValueError, match='"   " has no token'):
        tokenize(tokenizer, Caption("dog.    ", ((0, 3), (5, 8))))


def test_a_name_longer_than_the_window_is_named(tokenizer) -> None:
    with pytest.raises(ValueError, match='class name "dog, dog, .* has 600 tokens'):
        tokenize(tokenizer, vocabulary_caption(Vocabulary.from_names(["dog, " * 300])))


def test_a_long_list_is_not_cut(tokenizer) -> None:
    vocabulary = Vocabulary.from_names([f"thing number {i}" for i in range(5000)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = tokenize(tokenizer, vocabulary_caption(vocabulary))
    assert len(read.spans) == 5000
    assert read.spans[-1][-1] == len(read.ids) - 2


def test_a_long_expression_is_cut_with_one_warning(tokenizer) -> None:
    caption = expression_caption("dog " * 1000)
    with pytest.warns(UserWarning, match="1000 tokens; only the first 510") as caught:
        read = tokenize(tokenizer, caption)
    assert len(caught) == 1
    assert len(read.ids) == 512
    assert read.ids[-1] == tokenizer.sep_token_id
    assert read.spans == (tuple(range(1, 511)),)


def test_an_unknown_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='there is no folder ".*nowhere"'):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_a_folder_without_word_pieces_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tokens found for the text encoder"):
        load_tokenizer(str(tmp_path))


def test_counted_pieces_add_up_to_the_caption(tokenizer) -> None:
    vocabulary = Vocabulary.from_names(["dog", "traffic_light", "door, bars", "bow_(for arrows)"])
    read = tokenize(tokenizer, vocabulary_caption(vocabulary))
    counted = count_pieces(vocabulary)
    assert sum(counted) + 1 == len(read.ids)
    assert [count - 1 for count in counted] == [len(span) for span in read.spans]
