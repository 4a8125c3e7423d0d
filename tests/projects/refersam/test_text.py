"""Expression encoders of BERT and CLIP."""

from __future__ import annotations

import warnings

import pytest
import torch

from refersam.modeling.text import build_expression_encoder

EXPRESSIONS = ["the red car on the left", "a dog"]


def test_bert_features_equal_those_of_token_ids(model):
    features, mask = model.text_encoder.encode(EXPRESSIONS)
    ids = model.text_encoder.tokenizer(EXPRESSIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.text_encoder.encode_tokens(ids["input_ids"], ids["attention_mask"])
    assert torch.equal(mask, ids["attention_mask"].bool())
    torch.testing.assert_close(features[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_long_expressions_are_truncated_with_a_warning(model):
    long_expression = "the car " * 30
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("default")
        features, mask = model.text_encoder.encode([long_expression, long_expression])
    assert features.shape[1] == 20 and mask.all()
    (text,) = [str(warning.message) for warning in recorded]
    assert "60 tokens; only the first 18" in text


@pytest.fixture(scope="module")
def clip():
    pytest.importorskip("open_clip")
    encoder = build_expression_encoder("clip:random:ViT-B-32", frozen=False, max_tokens=12)
    return encoder.eval().requires_grad_(False)


@pytest.mark.slow
def test_clip_features_equal_open_clip_before_the_projection(clip):
    import open_clip

    features, mask = clip.encode(EXPRESSIONS)
    assert features.shape == (2, int(mask.sum(1).max()), 512)
    assert clip.summary_index(mask).tolist() == [int(n) - 1 for n in mask.sum(1)]
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32")
    for name in ("token_embedding", "transformer", "ln_final"):
        getattr(model, name).load_state_dict(getattr(clip, name).state_dict())
    model.positional_embedding.data.copy_(clip.positional_embedding.data)
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("ViT-B-32")(EXPRESSIONS))
    at_end = features[torch.arange(2), clip.summary_index(mask)]
    torch.testing.assert_close(at_end @ model.text_projection, expected, atol=1e-4, rtol=1e-4)
    with pytest.warns(UserWarning, match="only the first 10"):
        truncated, mask = clip.encode(["the car " * 30])
    assert truncated.shape[1] == 12 and mask.all()
    assert not clip.has_pretrained_weights


@pytest.mark.parametrize(
    ("source", "tokens", "message"),
    [
        ("clip:ViT-Z-99", 20, '"ViT-Z-99"'),
        ("clip:ViT-B-32", 20, 'names no weights: .* such as "clip:ViT-B-32:openai"'),
        ("clip:random:ViT-B-32", 20, "FROZEN would freeze its random weights"),
        ("/no/such/folder", 20, "/no/such/folder"),
        ("minilm", 2, "MAX_TOKENS must be at least 3"),
    ],
)
def test_invalid_sources_raise_an_error(source, tokens, message):
    with pytest.raises(ValueError, match=message):
        build_expression_encoder(source, frozen=True, max_tokens=tokens)
