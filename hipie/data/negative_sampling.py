"""The vocabulary a training image is shown: what is in it, among names of what is not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from hipie.data.dataset_mappers.text_flip import mirrored_words
from hipie.vocabularies.vocabulary import Vocabulary

MOST_NEGATIVES = 85
SPECIAL_PIECES = 2


def draw_vocabulary(
    rng: np.random.Generator,
    present: Collection[int],
    candidates: Sequence[int],
    pieces: Sequence[int],
    max_pieces: int,
) -> list[int]:
    """Draw the classes of one training caption, in the order they are named.

    The classes in the image come first to the budget, in random order, then random others: 85
    (or all) half the time, otherwise a number drawn between 1 and that. All are shuffled at the
    end. The published recipe also draws the name "__background__"; this does not.

    Args:
        rng: the item's own generator.
        present: indices of the classes in the image.
        candidates: indices that may be named although absent.
        pieces: tokens of "name. " for every class of the vocabulary.
        max_pieces: tokens a caption may have, [CLS] and [SEP] included.

    Returns:
        distinct class indices; classes of the image are missing only if they did not fit.
    """
    room = max_pieces - SPECIAL_PIECES
    named: list[int] = []
    for index in rng.permutation(np.array(sorted(present), dtype=np.int64)):
        if pieces[index] <= room:
            named.append(int(index))
            room -= pieces[index]
    most = min(MOST_NEGATIVES, len(candidates))
    count = most if most == 0 or rng.random() < 0.5 else int(rng.integers(1, most + 1))
    for index in rng.choice(np.asarray(candidates, dtype=np.int64), size=count, replace=False):
        if index not in present and pieces[index] <= room:
            named.append(int(index))
            room -= pieces[index]
    return [named[i] for i in rng.permutation(len(named))]


def sub_vocabulary(vocabulary: Vocabulary, named: Sequence[int], mirrored: bool) -> Vocabulary:
    """The chosen classes of a vocabulary; names swap left and right if the image is mirrored."""
    classes = [vocabulary.classes[i] for i in named]
    if mirrored:
        classes = [
            replace(
                one,
                name=mirrored_words(one.name),
                synonyms=tuple(mirrored_words(word) for word in one.synonyms),
            )
            for one in classes
        ]
    return Vocabulary(tuple(classes))
