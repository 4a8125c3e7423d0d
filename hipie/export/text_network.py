"""Text encoders as functions of token ids, which exporters can trace."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from hipie import __version__
from hipie.errors import UnsupportedError
from hipie.export.traceable import TraceableNetwork
from hipie.modeling.text_encoder.bert import BertTextEncoder


class TextEncoderNetwork(nn.Module):
    """BERT for the tokens of one text.

    Args:
        encoder: in evaluation mode; its network is copied.
    """

    def __init__(self, encoder: BertTextEncoder) -> None:
        super().__init__()
        self.bert = copy.deepcopy(encoder.model).float()

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [1, T] int64, start and end tokens included -> features [T, C] float32."""
        mask = torch.ones_like(ids)
        return self.bert(input_ids=ids, attention_mask=mask).last_hidden_state[0]


def text_network(encoder: nn.Module) -> TraceableNetwork:
    """Build the network of a text encoder, with its tokenizer in the description.

    Raises:
        UnsupportedError: for another text encoder than BERT.
    """
    about = tokenizer_description(encoder)
    assert isinstance(encoder, BertTextEncoder)
    ids = torch.arange(100, 111)[None]
    dynamic = {"ids": {1: Dim("tokens", min=3, max=encoder.window)}}
    network = TextEncoderNetwork(encoder).eval()
    return TraceableNetwork(network, {"ids": ids}, ("text",), about, dynamic)


def tokenizer_description(encoder: nn.Module) -> dict[str, Any]:
    """Describe the tokenizer of a text encoder.

    Returns:
        `tokenizer`, the content of the `tokenizer.json` that the package tokenizers reads; and
        `window`, the largest number of tokens of a sequence, start and end tokens included.

    Raises:
        UnsupportedError: for another text encoder than BERT.
    """
    if not isinstance(encoder, BertTextEncoder):
        raise UnsupportedError(f"a {type(encoder).__name__} is not exported; BERT is")
    tokenizer: Any = encoder.tokenizer
    return {
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "window": encoder.window,
        "version": __version__,
    }
