"""Expressions into tokens and features, by BERT and by CLIP."""

from __future__ import annotations

import warnings

import pytest
import torch

from refersam.modeling.text import build_expression_encoder

EXPRESSIONS = ["the red car on the left", "a dog"]


def test_berts_features_are_those_of_its_ids(model):
    features, mask = model.text_encoder.encode(EXPRESSIONS)
    ids = model.text_encoder.tokenizer(EXPRESSIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        read = model.text_encoder.encode_tokens(ids["input_ids"], ids["attention_mask"])
    assert torch.equal(mask, ids["attention_mask"].bool())
    torch.testing.assert_close(features[mask], read[mask], atol=1e-5, rtol=1e-5)


def test_long_expressions_are_cut_with_one_warning(model):
    long = "the car " * 30
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        features, mask = model.text_encoder.encode([long, long])
    assert features.shape[1] == 20 and mask.all()
    (message,) = [str(one.message) for one in said]
    assert "60 tokens; only the first 18" in message


@pytest.fixture(scope="module")
def clip():
    pytest.importorskip("open_clip")
    return build_expression_encoder("clip:ViT-B-32", frozen=True, max_tokens=12).eval()


@pytest.mark.slow
def test_clips_last_states_before_the_projection(clip):
    import open_clip

    features, mask = clip.encode(EXPRESSIONS)
    assert features.shape == (2, int(mask.sum(1).max()), 512)
    assert clip.summary_index(mask).tolist() == [int(n) - 1 for n in mask.sum(1)]
    torch.manual_seed(0)
    whole = open_clip.create_model("ViT-B-32")
    for name in ("token_embedding", "transformer", "ln_final"):
        getattr(whole, name).load_state_dict(getattr(clip, name).state_dict())
    whole.positional_embedding.data.copy_(clip.positional_embedding.data)
    with torch.no_grad():
        wanted = whole.encode_text(open_clip.get_tokenizer("ViT-B-32")(EXPRESSIONS))
    at_end = features[torch.arange(2), clip.summary_index(mask)]
    torch.testing.assert_close(at_end @ whole.text_projection, wanted, atol=1e-4, rtol=1e-4)
    with pytest.warns(UserWarning, match="only the first 10"):
        cut, mask = clip.encode(["the car " * 30])
    assert cut.shape[1] == 12 and mask.all()
    assert not any(p.requires_grad for p in clip.parameters())


@pytest.mark.parametrize(
    ("source", "tokens", "said"),
    [
        ("clip:ViT-Z-99", 20, '"ViT-Z-99"'),
        ("/no/such/folder", 20, "/no/such/folder"),
        ("minilm", 2, "MAX_TOKENS is 2"),
    ],
)
def test_bad_sources(source, tokens, said):
    with pytest.raises(ValueError, match=said):
        build_expression_encoder(source, frozen=True, max_tokens=tokens)
