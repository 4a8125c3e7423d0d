"""Sampling of the vocabulary in a training caption: present classes and random negatives."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from hipie.data.dataset_mappers.transforms import flip_text
from hipie.vocabularies.vocabulary import Vocabulary

MAX_NEGATIVES = 85
NUM_SPECIAL_TOKENS = 2
"""[CLS] and [SEP]."""


def sample_vocabulary(
    rng: np.random.Generator,
    present: Collection[int],
    candidates: Sequence[int],
    token_counts: Sequence[int],
    max_tokens: int,
) -> list[int]:
    """Sample the classes of one training caption.

    Present classes take their tokens first, in random order; then random candidates are added: in
    half of the cases 85 (or all), otherwise a uniform number between 1 and that. The result is
    shuffled. The official training also samples a class "__background__"; this does not.

    Args:
        rng: generator of the item.
        present: indices of the classes in the image.
        candidates: indices of the classes that may be added.
        token_counts: number of tokens of "name. " of every class of the vocabulary.
        max_tokens: tokens that a caption may have, [CLS] and [SEP] included.

    Returns:
        Distinct class indices in the caption's order; of the present classes only those are
        missing that did not fit.
    """
    budget = max_tokens - NUM_SPECIAL_TOKENS
    selected: list[int] = []
    for index in rng.permutation(np.array(sorted(present), dtype=np.int64)):
        if token_counts[index] <= budget:
            selected.append(int(index))
            budget -= token_counts[index]
    limit = min(MAX_NEGATIVES, len(candidates))
    count = limit if limit == 0 or rng.random() < 0.5 else int(rng.integers(1, limit + 1))
    for index in rng.choice(np.asarray(candidates, dtype=np.int64), size=count, replace=False):
        if index not in present and token_counts[index] <= budget:
            selected.append(int(index))
            budget -= token_counts[index]
    return [selected[i] for i in rng.permutation(len(selected))]


def vocabulary_subset(vocabulary: Vocabulary, indices: Sequence[int], flipped: bool) -> Vocabulary:
    """Return some classes of a vocabulary.

    Args:
        vocabulary: all classes.
        indices: the classes to keep, in this order.
        flipped: swap left and right in their names, for a horizontally flipped image.
    """
    classes = [vocabulary.classes[i] for i in indices]
    if flipped:
        classes = [
            replace(
                entry,
                name=flip_text(entry.name),
                synonyms=tuple(flip_text(synonym) for synonym in entry.synonyms),
            )
            for entry in classes
        ]
    return Vocabulary(tuple(classes))
