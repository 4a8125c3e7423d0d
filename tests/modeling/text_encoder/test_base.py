"""Registry of text encoders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn
from transformers import PreTrainedTokenizerBase

from hipie.modeling.text_encoder import (
    TEXT_ENCODER_REGISTRY,
    BertTextEncoder,
    Caption,
    TextEncoder,
    build_text_encoder,
    expression_caption,
    load_tokenizer,
    tokenize,
)
from hipie.structures import TextFeatures


class EmbeddingTextEncoder(TextEncoder):
    """One trained vector a token, no context."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self._tokenizer = load_tokenizer(cfg.MODEL.HIPIE.TEXT.SOURCE)
        self.embedding = nn.Embedding(len(self._tokenizer), 8)

    @property
    def width(self) -> int:
        return self.embedding.embedding_dim

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._tokenizer

    def forward(self, captions: Sequence[Caption]) -> TextFeatures:
        tokenized = [tokenize(self._tokenizer, caption) for caption in captions]
        ids = nn.utils.rnn.pad_sequence([torch.tensor(one.ids) for one in tokenized], True)
        spans = tuple(one.spans for one in tokenized)
        return TextFeatures(self.embedding(ids), ids != 0, ids, spans)


@pytest.fixture
def cfg() -> CfgNode:
    text = {"ENCODER": "EmbeddingTextEncoder", "SOURCE": "minilm", "FROZEN": True, "WINDOW": 512}
    return CfgNode({"MODEL": {"HIPIE": {"TEXT": text}}})


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(
        TEXT_ENCODER_REGISTRY._obj_map, "EmbeddingTextEncoder", EmbeddingTextEncoder
    )
    monkeypatch.setitem(TEXT_ENCODER_REGISTRY._obj_map, "Linear", lambda cfg: nn.Linear(2, 2))
    yield


def test_registered_text_encoder_is_built(cfg: CfgNode, registered: None) -> None:
    encoder = build_text_encoder(cfg)
    assert isinstance(encoder, EmbeddingTextEncoder) and encoder.width == 8
    assert not encoder.has_external_weights()
    features = encoder([expression_caption("the red dog"), expression_caption("a dog")])
    assert features.hidden.shape == (2, 5, 8)


def test_default_is_bert(cfg: CfgNode) -> None:
    cfg.MODEL.HIPIE.TEXT.ENCODER = "BertTextEncoder"
    encoder = build_text_encoder(cfg)
    assert isinstance(encoder, BertTextEncoder) and encoder.width == 384
    assert encoder.frozen and encoder.has_external_weights()


def test_unknown_names_and_other_modules_are_rejected(cfg: CfgNode, registered: None) -> None:
    cfg.MODEL.HIPIE.TEXT.ENCODER = "Linear"
    with pytest.raises(ValueError, match='"Linear" returned a Linear, which is not derived'):
        build_text_encoder(cfg)
    cfg.MODEL.HIPIE.TEXT.ENCODER = "LSTM"
    with pytest.raises(KeyError, match="LSTM"):
        build_text_encoder(cfg)


def test_incomplete_text_encoders_are_rejected() -> None:
    class Incomplete(TextEncoder):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()
