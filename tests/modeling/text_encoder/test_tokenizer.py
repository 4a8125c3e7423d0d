"""Tokens and token positions of classes, compared with the published model's."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from hipie.modeling.text_encoder.caption import Caption, expression_caption, vocabulary_caption
from hipie.modeling.text_encoder.tokenizer import count_tokens, load_tokenizer, tokenize
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

DATA = Path(__file__).parents[2] / "data" / "language"
OFFICIAL = json.loads((DATA / "official_tokens.json").read_text())


@pytest.mark.parametrize("case", ["r50_small_det12", "r50_small_det133"])
def test_official_ids_and_spans(tokenizer, case: str) -> None:
    spec = OFFICIAL[case]
    classes = [VocabularyClass(name, kind) for name, kind in spec["classes"]]
    tokenized = tokenize(tokenizer, vocabulary_caption(Vocabulary(classes)))
    assert list(tokenized.ids) == spec["input_ids"]
    assert [list(span) for span in tokenized.spans] == spec["class_tokens"]


def test_official_expression(tokenizer) -> None:
    spec = OFFICIAL["r50_small_refer"]
    tokenized = tokenize(tokenizer, expression_caption(spec["expression"]))
    assert list(tokenized.ids) == spec["input_ids"]
    assert tokenized.spans == (tuple(range(1, len(tokenized.ids) - 1)),)


def test_spans_contain_the_tokens_of_the_name(tokenizer) -> None:
    names = ["traffic light", "tvmonitor screen", "sky-other", "door, bars", "crème brûlée", "中文"]
    tokenized = tokenize(tokenizer, vocabulary_caption(Vocabulary.from_names(names)))
    for name, span in zip(names, tokenized.spans, strict=True):
        alone = tokenizer(name, add_special_tokens=False)["input_ids"]
        assert [tokenized.ids[position] for position in span] == alone


def test_surrounding_spaces_are_not_in_the_span(tokenizer) -> None:
    tokenized = tokenize(tokenizer, Caption("  dog  . cat", ((0, 7), (9, 12))))
    assert [tokenized.ids[span[0]] for span in tokenized.spans] == tokenizer.convert_tokens_to_ids(
        ["dog", "cat"]
    )
    assert [len(span) for span in tokenized.spans] == [1, 1]


def test_name_without_tokens_is_rejected(tokenizer) -> None:
    with pytest.raises(ValueError, match='"   " has no token'):
        tokenize(tokenizer, Caption("dog.    ", ((0, 3), (5, 8))))


def test_name_longer_than_the_window_is_rejected(tokenizer) -> None:
    with pytest.raises(ValueError, match='class name "dog, dog, .* has 600 tokens'):
        tokenize(tokenizer, vocabulary_caption(Vocabulary.from_names(["dog, " * 300])))


def test_long_vocabulary_is_not_truncated(tokenizer) -> None:
    vocabulary = Vocabulary.from_names([f"thing number {i}" for i in range(5000)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenized = tokenize(tokenizer, vocabulary_caption(vocabulary))
    assert len(tokenized.spans) == 5000
    assert tokenized.spans[-1][-1] == len(tokenized.ids) - 2


def test_long_expression_is_truncated_with_one_warning(tokenizer) -> None:
    caption = expression_caption("dog " * 1000)
    with pytest.warns(UserWarning, match="1000 tokens; only the first 510") as caught:
        tokenized = tokenize(tokenizer, caption)
    assert len(caught) == 1
    assert len(tokenized.ids) == 512
    assert tokenized.ids[-1] == tokenizer.sep_token_id
    assert tokenized.spans == (tuple(range(1, 511)),)


def test_unknown_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='there is no folder ".*nowhere"'):
        load_tokenizer(str(tmp_path / "nowhere"))


def test_folder_without_tokenizer_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no tokenizer"):
        load_tokenizer(str(tmp_path))


def test_token_counts_add_up_to_the_caption(tokenizer) -> None:
    vocabulary = Vocabulary.from_names(["dog", "traffic_light", "door, bars", "bow_(for arrows)"])
    tokenized = tokenize(tokenizer, vocabulary_caption(vocabulary))
    counts = count_tokens(vocabulary)
    assert sum(counts) + 1 == len(tokenized.ids)
    assert [count - 1 for count in counts] == [len(span) for span in tokenized.spans]


def test_code_of_a_folder_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}'
    )
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}'
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="has no tokenizer"):
        load_tokenizer(str(tmp_path))
    assert not (tmp_path / "ran").exists()
