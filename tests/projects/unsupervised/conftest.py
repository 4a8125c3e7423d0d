"""Small configurations of learning without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("hipie_unsupervised")

from hipie.modeling.text_encoder import TextEncoder
from hipie.structures import TextFeatures

VIT = (
    *("MODEL.UNSUPERVISED.VIT.NAME", "vit_small_patch8_224.dino"),
    *("MODEL.UNSUPERVISED.VIT.IMAGE_SIZE", 32, "MODEL.UNSUPERVISED.VIT.EMBED_DIM", 24),
    *("MODEL.UNSUPERVISED.VIT.DEPTH", 2, "MODEL.UNSUPERVISED.VIT.NUM_HEADS", 3),
)
HEAD = (
    *("MODEL.UNSUPERVISED.DINO.OUT_DIM", 40, "MODEL.UNSUPERVISED.DINO.HIDDEN_DIM", 32),
    *("MODEL.UNSUPERVISED.DINO.BOTTLENECK_DIM", 12),
)


class LetterCounts(TextEncoder):
    """A text encoder that counts the letters a to h; a word is a token."""

    width = 8
    tokenizer = None

    def forward(self, captions):
        words = [caption.text.split() for caption in captions]
        longest = max(map(len, words))
        hidden = torch.zeros(len(words), longest, self.width)
        mask = torch.zeros(len(words), longest, dtype=torch.bool)
        for row, of_caption in enumerate(words):
            for column, word in enumerate(of_caption):
                mask[row, column] = True
                for letter in set(word) & set("abcdefgh"):
                    hidden[row, column, ord(letter) - ord("a")] = word.count(letter)
        spans = tuple(((tuple(range(len(of_caption))),)) for of_caption in words)
        return TextFeatures(hidden, mask, torch.zeros_like(mask, dtype=torch.long), spans)


@pytest.fixture(scope="session")
def published():
    """Results of the released programs, by name."""
    with np.load(Path(__file__).parent / "data" / "published.npz") as stored:
        return dict(stored)


@pytest.fixture
def dino_cfg():
    """Configuration of DINO with a tiny transformer."""
    from hipie import model_zoo

    options = (*VIT, *HEAD, "MODEL.UNSUPERVISED.DINO.FREEZE_LAST_LAYER", 0)
    return model_zoo.get_config("dino_nano_picturebook.yaml", options)
