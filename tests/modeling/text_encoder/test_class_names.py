"""Class names that a text encoder does not know or cannot tell apart."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from hipie.modeling.text_encoder.class_names import check_class_names
from hipie.modeling.text_encoder.tokenizer import load_tokenizer
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyError

SOURCE = "bert-base-uncased"
# Common nouns: person, child, car, bicycle, boat, dog, cat, horse, cow, sheep, apple, flower, tree,
# water, mountain, table, chair, bed, book, cup.
CHINESE_NOUNS = (
    *("人", "孩子", "汽车", "自行车", "船", "狗", "猫", "马", "牛", "羊"),
    *("苹果", "花", "树", "水", "山", "桌子", "椅子", "床", "书", "杯子"),
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(SOURCE)


@pytest.mark.parametrize(
    ("names", "tokens"),
    [
        (["box (a)", "box (b)"], "box"),
        (["traffic_light", "traffic light"], "traffic light"),
        (["naïve", "naive"], "naive"),
    ],
)
def test_names_with_equal_tokens_are_told(
    names: list[str], tokens: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    vocabulary = Vocabulary.from_names(things=["ball", *names])
    (warning,) = check_class_names(vocabulary, tokenizer, SOURCE)
    assert all(f'"{name}"' in warning for name in names) and '"ball"' not in warning
    assert warning.endswith(f"the tokens of all are {tokens}")


def test_names_that_differ_are_accepted(tokenizer: PreTrainedTokenizerBase) -> None:
    names = ["t-shirt", "t shirt", "машина", "größe", "مدرسة", "box"]
    assert check_class_names(Vocabulary.from_names(things=names), tokenizer, SOURCE) == []


def test_unknown_letters_are_told(tokenizer: PreTrainedTokenizerBase) -> None:
    names = ["ball", "red 球", "小鸟"]
    (warning,) = check_class_names(Vocabulary.from_names(things=names), tokenizer, SOURCE)
    assert "2 class names" in warning and '"red 球" (red [UNK])' in warning


def test_names_of_unknown_letters_are_an_error_with_the_encoders_that_know_them(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    for name, text in (
        ("球", 'class name "球": its tokens are .UNK.; bert-base-multilingual-cased knows Chinese'),
        ("ಮರ", "multilingual-cased knows Kannada"),
        ("ሰማይ", "no text encoder that is known here"),
    ):
        assert set(tokenizer.tokenize(name)) == {"[UNK]"}
        with pytest.raises(VocabularyError, match=text):
            check_class_names(Vocabulary.from_names(things=["ball", name]), tokenizer, SOURCE)


def test_most_chinese_nouns_have_unknown_letters(tokenizer: PreTrainedTokenizerBase) -> None:
    unknown = [name for name in CHINESE_NOUNS if "[UNK]" in tokenizer.tokenize(name)]
    assert len(unknown) > len(CHINESE_NOUNS) / 2
    for name in unknown:
        vocabulary = Vocabulary.from_names(things=["ball", name])
        try:
            (warning,) = check_class_names(vocabulary, tokenizer, SOURCE)
        except VocabularyError as error:
            warning = str(error)
        assert f'"{name}"' in warning and "[UNK]" in warning
