"""Chunks of words give what all words at once give."""

from __future__ import annotations

import pytest
import torch

from hipie.modeling.fusion import chunked as fusion_in_chunks
from hipie.modeling.fusion.bidirectional_attention import BidirectionalFusion
from hipie.modeling.fusion.chunked import COPIES, fuse_in_chunks, needs_chunks
from hipie.modeling.transformer_decoder import thing_branch as things

BATCH, PIXELS, WORDS = 2, 30, 50


@pytest.fixture
def fusion() -> BidirectionalFusion:
    torch.manual_seed(0)
    made = BidirectionalFusion(12, 10, 16, 4).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(BATCH, WORDS, generator=generator) > 0.3
    mask[1, :20] = False  # the first chunks hold no real word of the second image
    visual = torch.randn(BATCH, PIXELS, 12, generator=generator)
    return visual, 3 * torch.randn(BATCH, WORDS, 10, generator=generator), mask


@pytest.mark.parametrize("words", [1, 7, 16, 50, 1000])
def test_equals_one_piece(fusion, given, words) -> None:
    with torch.no_grad():
        expected = fusion(*given)
        found = fuse_in_chunks(fusion, *given, words * BATCH * PIXELS * 4 * COPIES)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


def test_no_score_matrix_is_larger_than_granted(fusion, given, monkeypatch) -> None:
    sizes = []
    scores = fusion_in_chunks._Head.scores

    def watched(self, visual, text):
        found = scores(self, visual, text)
        sizes.append(found.numel() * 4)
        return found

    monkeypatch.setattr(fusion_in_chunks._Head, "scores", watched)
    granted = 40000
    with torch.no_grad():
        fuse_in_chunks(fusion, *given, granted)
    assert len(sizes) > fusion.num_heads and max(sizes) * COPIES <= granted


def test_bfloat16(fusion, given) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = fusion(*given)
        found = fuse_in_chunks(fusion, *given, 20000)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.float(), other.float(), atol=0.1, rtol=0.1)


def test_the_thing_branch_takes_chunks_when_it_must(tiny_cfg, monkeypatch) -> None:
    from detectron2.modeling import build_model

    from hipie.vocabularies.vocabulary import Vocabulary

    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    words = Vocabulary.from_names([f"thing {i}" for i in range(40)])
    item = {"image": 255 * torch.rand(3, 64, 96), "vocabulary": words}
    expected = model([item])[0]["sem_seg"]
    called = []
    monkeypatch.setattr(things, "needs_chunks", lambda *_: True)
    monkeypatch.setattr(
        things, "fuse_in_chunks", lambda *given: called.append(1) or fuse_in_chunks(*given, 50000)
    )
    torch.testing.assert_close(model([item])[0]["sem_seg"], expected, atol=1e-4, rtol=1e-4)
    assert called == [1]
    visual, text = torch.zeros(1, 20000, 1), torch.zeros(1, 30000, 1)
    assert needs_chunks(visual, text) and not needs_chunks(visual, text[:, :300])
