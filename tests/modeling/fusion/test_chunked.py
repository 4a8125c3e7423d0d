"""Fusion in chunks of tokens equals fusion of all tokens."""

from __future__ import annotations

import pytest
import torch

from hipie.modeling.fusion import chunked
from hipie.modeling.fusion.bidirectional_attention import BidirectionalFusion
from hipie.modeling.fusion.chunked import COPIES, fuse_in_chunks, needs_chunks
from hipie.modeling.pixel_decoder import thing_encoder

BATCH, IMAGE_TOKENS, TOKENS = 2, 30, 50


@pytest.fixture
def fusion() -> BidirectionalFusion:
    torch.manual_seed(0)
    made = BidirectionalFusion(12, 10, 16, 4).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(BATCH, TOKENS, generator=generator) > 0.3
    mask[1, :20] = False  # the first chunks have no real token of the second image
    visual = torch.randn(BATCH, IMAGE_TOKENS, 12, generator=generator)
    return visual, 3 * torch.randn(BATCH, TOKENS, 10, generator=generator), mask


@pytest.mark.parametrize("tokens", [1, 7, 16, 50, 1000])
def test_equals_fusion_of_all_tokens(fusion, inputs, tokens) -> None:
    with torch.no_grad():
        expected = fusion(*inputs)
        output = fuse_in_chunks(fusion, *inputs, tokens * BATCH * IMAGE_TOKENS * 4 * COPIES)
    for first, second in zip(output, expected, strict=True):
        torch.testing.assert_close(first, second, atol=2e-5, rtol=2e-5)


def test_score_matrices_stay_below_the_limit(fusion, inputs, monkeypatch) -> None:
    sizes = []
    scores = chunked._HeadProjections.scores

    def recorded(self, visual, text):
        output = scores(self, visual, text)
        sizes.append(output.numel() * 4)
        return output

    monkeypatch.setattr(chunked._HeadProjections, "scores", recorded)
    limit = 40000
    with torch.no_grad():
        fuse_in_chunks(fusion, *inputs, limit)
    assert len(sizes) > fusion.num_heads and max(sizes) * COPIES <= limit


def test_bfloat16_stays_close(fusion, inputs) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = fusion(*inputs)
        output = fuse_in_chunks(fusion, *inputs, 20000)
    for first, second in zip(output, expected, strict=True):
        torch.testing.assert_close(first.float(), second.float(), atol=0.1, rtol=0.1)


def test_the_thing_encoder_uses_chunks_for_long_captions(tiny_cfg, monkeypatch) -> None:
    from detectron2.modeling import build_model

    from hipie.vocabularies.vocabulary import Vocabulary

    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    tokens = Vocabulary.from_names([f"thing {i}" for i in range(40)])
    item = {"image": 255 * torch.rand(3, 64, 96), "vocabulary": tokens}
    expected = model([item])[0]["sem_seg"]
    called = []
    monkeypatch.setattr(thing_encoder, "needs_chunks", lambda *_: True)
    monkeypatch.setattr(
        thing_encoder,
        "fuse_in_chunks",
        lambda *inputs: called.append(1) or fuse_in_chunks(*inputs, 50000),
    )
    torch.testing.assert_close(model([item])[0]["sem_seg"], expected, atol=1e-4, rtol=1e-4)
    assert called == [1]
    visual, text = torch.zeros(1, 20000, 1), torch.zeros(1, 30000, 1)
    assert needs_chunks(visual, text) and not needs_chunks(visual, text[:, :300])
