"""Text features of the published model with weights computed by a rule."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from hipie.modeling.text_encoder.bert import BertTextEncoder
from hipie.modeling.text_encoder.caption import expression_caption, vocabulary_caption
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

DATA = Path(__file__).parents[2] / "data" / "language"
PREFIX = "text_encoder.body.model."


def rule_weights(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights drawn from the checksum of their key, as for the stored features."""
    noise = np.random.default_rng(zlib.crc32((PREFIX + key).encode())).standard_normal(shape)
    if "embeddings.weight" in key:
        value = 0.2 * noise
    elif len(shape) == 1:
        value = 1 + 0.02 * np.abs(noise) if key.endswith("weight") else 0.02 * noise
    else:
        gain = 0.2 if key.endswith("output.dense.weight") else 1.0
        value = gain * noise / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


@pytest.fixture(scope="module")
def encoder() -> BertTextEncoder:
    encoder = BertTextEncoder.from_source("bert-base-uncased").eval()
    state = encoder.model.state_dict()
    encoder.model.load_state_dict(
        {
            key: rule_weights(key, tuple(value.shape)) if value.is_floating_point() else value
            for key, value in state.items()
        }
    )
    return encoder


@pytest.mark.slow
@pytest.mark.parametrize("case", ["r50_small_det12", "r50_small_det133", "r50_small_refer"])
def test_hidden_states(encoder: BertTextEncoder, case: str) -> None:
    spec = json.loads((DATA / "official_tokens.json").read_text())[case]
    if "expression" in spec:
        caption = expression_caption(spec["expression"])
    else:
        classes = [VocabularyClass(name, kind) for name, kind in spec["classes"]]
        caption = vocabulary_caption(Vocabulary(classes))
    with torch.no_grad():
        hidden = encoder([caption]).hidden[0].numpy()
    with np.load(DATA / "official_text.npz") as official:
        expected = official[case]
    step = -(-hidden.shape[0] // 64)
    found = hidden[::step, :: 768 // expected.shape[1]]
    assert np.abs(found - expected).max() < 2e-5
