"""A small BERT text encoder."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel

from hipie.modeling.text_encoder.bert import BertTextEncoder
from hipie.modeling.text_encoder.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer("minilm")


@pytest.fixture
def tiny(tokenizer) -> BertTextEncoder:
    """Two layers, 32 channels, random weights, in evaluation mode."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.dim() > 1 else 1)
    return BertTextEncoder(model, tokenizer).eval()
