"""Text encoder interface and registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import nn

from hipie.errors import InputError
from hipie.modeling.text_encoder.caption import Caption
from hipie.structures import TextFeatures

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT_ENCODER_REGISTRY = Registry("TEXT_ENCODER")
TEXT_ENCODER_REGISTRY.__doc__ = """
Registry of text encoders, chosen by `MODEL.HIPIE.TEXT.ENCODER`.

A registered object is called with the configuration and returns a `TextEncoder`.
"""


class TextEncoder(nn.Module, ABC):
    """Interface of text encoders: captions to one feature vector a token.

    A subclass is registered in `TEXT_ENCODER_REGISTRY` and chosen by its name:

        @TEXT_ENCODER_REGISTRY.register()
        class MyTextEncoder(TextEncoder):
            def __init__(self, cfg): ...

    with `MODEL.HIPIE.TEXT.ENCODER: MyTextEncoder`. Captions are tokenized by
    `hipie.modeling.text_encoder.tokenizer.tokenize`, which also gives the tokens of each class.
    """

    @property
    @abstractmethod
    def width(self) -> int:
        """C, channels of a token's feature vector."""

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Fast tokenizer that produces `TextFeatures.input_ids`."""

    @abstractmethod
    def forward(self, captions: Sequence[Caption]) -> TextFeatures:
        """Encode B captions.

        Args:
            captions: B captions; the same caption may occur several times.

        Returns:
            Features in the order of the captions, padded to the longest one.

        Raises:
            ValueError: if there is no caption, or a class has no token.
        """

    def has_external_weights(self) -> bool:
        """Whether the weights come from an installed package and checkpoints may omit them."""
        return False


def build_text_encoder(cfg: CfgNode) -> TextEncoder:
    """Build the text encoder that `MODEL.HIPIE.TEXT.ENCODER` names.

    Raises:
        KeyError: if no text encoder of that name is registered.
        InputError: if the registered object does not return a `TextEncoder`.
    """
    name = cfg.MODEL.HIPIE.TEXT.ENCODER
    encoder = TEXT_ENCODER_REGISTRY.get(name)(cfg)
    if not isinstance(encoder, TextEncoder):
        raise InputError(
            f'MODEL.HIPIE.TEXT.ENCODER: "{name}" returned a {type(encoder).__name__}, '
            "which is not derived from TextEncoder"
        )
    return encoder
