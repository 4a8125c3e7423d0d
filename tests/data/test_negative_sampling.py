"""The caption of a training image."""

from __future__ import annotations

import numpy as np

from hipie.data.negative_sampling import sample_vocabulary, vocabulary_subset
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

TOKEN_COUNTS = [2] * 200


def draw(
    seed: int,
    present=(3, 5),
    candidates=range(200),
    token_counts=TOKEN_COUNTS,
    max_tokens: int = 512,
):
    rng = np.random.default_rng(seed)
    return sample_vocabulary(rng, set(present), list(candidates), token_counts, max_tokens)


def test_classes_are_distinct_and_include_present_ones() -> None:
    for seed in range(30):
        named = draw(seed)
        assert len(set(named)) == len(named)
        assert {3, 5} <= set(named)
        assert 2 <= len(named) <= 87


def test_half_of_the_captions_have_all_negatives() -> None:
    sizes = np.array([len(draw(seed, present=())) for seed in range(300)])
    assert 0.4 < (sizes == 85).mean() < 0.62
    assert sizes.min() < 10


def test_order_is_shuffled() -> None:
    places = [draw(seed).index(3) for seed in range(30)]
    assert len(set(places)) > 10


def test_only_candidates_are_added() -> None:
    for seed in range(20):
        assert set(draw(seed, candidates=range(10, 20))) - {3, 5} <= set(range(10, 20))
    assert set(draw(0, candidates=())) == {3, 5}


def test_captions_fit() -> None:
    for seed in range(30):
        named = draw(seed, present=(1, 2, 3, 4), max_tokens=2 + 6)
        assert sum(TOKEN_COUNTS[i] for i in named) <= 6
        assert set(named) <= {1, 2, 3, 4} and len(named) == 3


def test_long_names_do_not_exclude_others() -> None:
    token_counts = [2] * 200
    token_counts[3] = 100
    for seed in range(10):
        named = draw(seed, token_counts=token_counts, max_tokens=50)
        assert 3 not in named and 5 in named


def test_vocabulary_subset_keeps_order_and_flips_names() -> None:
    words = Vocabulary(
        [
            VocabularyClass("dog", "thing", ("puppy",)),
            VocabularyClass("left arm", "part", ("left limb",), whole="person"),
            VocabularyClass("right arm", "part", whole="person"),
        ]
    )
    plain = vocabulary_subset(words, [2, 0], flipped=False)
    assert plain.names == ("right arm", "dog") and plain.classes[1].synonyms == ("puppy",)
    mirrored = vocabulary_subset(words, [1, 2], flipped=True)
    assert mirrored.names == ("right arm", "left arm")
    assert mirrored.classes[0].synonyms == ("right limb",)
