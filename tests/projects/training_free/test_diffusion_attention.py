"""Attention of a U-Net: recorded, laid over words, spread; with diffusers on a tiny pipeline."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hipie_training_free.error import TrainingFreeError
from hipie_training_free.modeling.attention_maps import (
    AttentionRecorder,
    cross_attention_map,
    propagate_by_self_attention,
    token_columns,
)
from tests.projects.training_free.ruled import numbers


class Attention(nn.Module):
    """The part of diffusers' attention that the recorder relies on."""

    def __init__(self, width: int, words: int | None) -> None:
        super().__init__()
        self.is_cross_attention = words is not None
        self.ask = nn.Linear(width, width)
        self.tell = nn.Linear(words or width, width)

    def get_attention_scores(self, query: Tensor, key: Tensor, mask: None = None) -> Tensor:
        return (query @ key.transpose(1, 2)).softmax(-1)

    def forward(self, x: Tensor, text: Tensor | None = None) -> Tensor:
        told = self.tell(x if text is None else text)
        return x + self.get_attention_scores(self.ask(x), told) @ told


class SmallUNet(nn.Module):
    """Self- and cross-attention at 1/2 and at 1/4 of a latent."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.ModuleList(Attention(4, None) for _ in range(2))
        self.cross = nn.ModuleList(Attention(4, 6) for _ in range(2))

    def forward(self, latent: Tensor, text: Tensor) -> Tensor:
        for shrink, own, cross in zip((2, 4), self.own, self.cross):
            small = nn.functional.avg_pool2d(latent, shrink).flatten(2).transpose(1, 2)
            latent = latent + cross(own(small), text).mean()
        return latent


def test_what_is_recorded_is_the_attention_and_nothing_changes():
    network, latent, text = SmallUNet(), numbers("latent", 1, 4, 8, 12), numbers("text", 1, 5, 6)
    plain = network(latent, text)
    with AttentionRecorder(network) as seen:
        assert torch.equal(network(latent, text), plain)
    assert [tuple(one.shape) for one in seen.cross_attention] == [(1, 24, 5), (1, 6, 5)]
    assert [tuple(one.shape) for one in seen.self_attention] == [(1, 24, 24), (1, 6, 6)]
    torch.testing.assert_close(seen.cross_attention[0].sum(-1), torch.ones(1, 24))
    network(latent, text)
    assert len(seen.cross_attention) == 2, "nothing is kept any more"


def test_a_network_without_attention():
    with pytest.raises(TrainingFreeError, match="no attention modules that can be recorded"):
        AttentionRecorder(nn.Linear(2, 2))


def test_a_planted_word_is_found_where_it_is():
    truth = torch.zeros(16, 24, dtype=torch.bool)
    truth[4:12, 8:20] = True
    maps = []
    for shrink in (2, 4, 8):
        share = nn.functional.avg_pool2d(truth[None].float(), shrink).flatten()
        if shrink == 8:
            share = 1 - share  # a layer that is not asked
        maps.append(torch.stack([1 - share, share / 2, share / 2], 1).expand(3, -1, -1))
    found = cross_attention_map(maps, [1, 2], (16, 24))
    mask = found > found.max() / 2
    assert ((mask & truth).sum() / (mask | truth).sum()) > 0.95
    with pytest.raises(TrainingFreeError, match="no token in the prompt"):
        cross_attention_map(maps, [], (16, 24))
    with pytest.raises(
        TrainingFreeError, match="no cross-attention of the U-Net has a resolution of 1/3"
    ):
        cross_attention_map(maps, [1], (16, 24), (3,))


def test_self_attention_completes_what_belongs_together():
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[2:6, 2:6] = True
    same = (region.flatten()[:, None] == region.flatten()).float()
    seed = torch.zeros(8, 8)
    seed[3, 3] = 1.0
    found = propagate_by_self_attention(seed, [2 * same.expand(2, -1, -1)], 1)
    assert torch.allclose(found[region], torch.tensor(1 / 16)) and not found[~region].any()
    assert torch.equal(propagate_by_self_attention(seed, [same[None]], 0), seed)


def test_a_word_stands_where_its_pieces_do():
    assert token_columns([9, 4, 5, 6, 5, 6, 2], [5, 6]) == [2, 3]
    assert token_columns([9, 4], [5]) == []


@pytest.fixture(scope="module")
def diffusion():
    pytest.importorskip("diffusers", reason="the optional package diffusers is not installed")
    from hipie_training_free.modeling.stable_diffusion import load_diffusion

    return load_diffusion("random:tiny")


def test_diffusers_own_attention_is_recorded(diffusion):
    latent, hidden = numbers("noisy", 1, 4, 16, 16), numbers("words", 1, 77, 32)
    before = {type(one) for one in diffusion.unet.attn_processors.values()}
    plain = diffusion.unet(latent, 100, hidden).sample
    with AttentionRecorder(diffusion.unet) as seen:
        recorded = diffusion.unet(latent, 100, hidden).sample
    torch.testing.assert_close(recorded, plain, atol=1e-5, rtol=1e-5)
    assert {one.shape[2] for one in seen.cross_attention} == {77}
    assert {one.shape[1] for one in seen.self_attention} >= {256, 64}
    assert {type(one) for one in diffusion.unet.attn_processors.values()} == before


def test_words_have_maps(diffusion):
    image = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    found = diffusion.phrase_maps(image, ["dog", "fire hydrant"], 100, 1)
    assert found.shape == (2, 16, 16) and torch.isfinite(found).all()
    assert not torch.allclose(found[0], found[1])
    assert torch.equal(found, diffusion.phrase_maps(image, ["dog", "fire hydrant"], 100, 1))
    with pytest.raises(TrainingFreeError, match=r"step 1000 of the diffusion is outside 0..999"):
        diffusion.phrase_maps(image, ["dog"], 1000, 1)
    with pytest.raises(TrainingFreeError, match="is too long for a diffusion prompt"):
        diffusion.phrase_maps(image, ["dog " * 90], 100, 1)


def test_without_diffusers_the_package_is_named(monkeypatch):
    import sys

    from hipie_training_free.modeling.stable_diffusion import load_diffusion

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(TrainingFreeError, match="pip install 'hipie"):
        load_diffusion("random:tiny")
