"""A small language model, a small SAM, and the model made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("hipie_reasoning")
pytest.importorskip("segment_anything")


@pytest.fixture(scope="session")
def language_model():
    """A language model with random weights; not to be modified."""
    from hipie_reasoning.modeling.language_model import MultimodalLanguageModel

    torch.manual_seed(0)
    return MultimodalLanguageModel.from_source("tiny", max_tokens=200).eval()


@pytest.fixture(scope="session")
def pixels():
    """An image of 60 by 90 pixels."""
    return np.random.default_rng(3).integers(0, 256, (60, 90, 3)).astype(np.uint8)


@pytest.fixture
def model(language_model):
    """`ReasoningSeg` with random weights; its language model is shared and not to be trained."""
    from hipie.modeling.sam.loading import load_sam
    from hipie_reasoning import ReasoningSeg
    from hipie_reasoning.modeling.mask_decoder import SamMaskDecoder

    return ReasoningSeg(
        language_model=language_model, mask_decoder=SamMaskDecoder(load_sam("random:tiny"))
    ).eval()


@pytest.fixture
def image(pixels):
    """The image as tensor [3, 60, 90]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.fixture
def script(language_model, monkeypatch):
    """Function that makes the language model say a text, whatever it is asked."""
    from hipie_reasoning.modeling import language_model as module

    def say(text: str) -> None:
        ids = language_model.tokenizer(text, add_special_tokens=False, return_tensors="pt")

        def generate(input_ids, **inputs):
            return torch.cat([input_ids, ids["input_ids"]], 1)

        monkeypatch.setattr(language_model.model, "generate", generate)

    assert module.SEG_TOKEN in language_model.tokenizer.get_vocab()
    return say
