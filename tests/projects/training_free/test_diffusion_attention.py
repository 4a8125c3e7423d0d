"""Attention maps of a U-Net, and of a tiny pipeline of diffusers."""

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
from tests.projects.training_free.ruled import normal_tensor


class Attention(nn.Module):
    """Interface of diffusers' attention that the recorder uses."""

    def __init__(self, width: int, text_width: int | None) -> None:
        super().__init__()
        self.is_cross_attention = text_width is not None
        self.to_query = nn.Linear(width, width)
        self.to_key = nn.Linear(text_width or width, width)

    def get_attention_scores(self, query: Tensor, key: Tensor, mask: None = None) -> Tensor:
        return (query @ key.transpose(1, 2)).softmax(-1)

    def forward(self, x: Tensor, text: Tensor | None = None) -> Tensor:
        key = self.to_key(x if text is None else text)
        return x + self.get_attention_scores(self.to_query(x), key) @ key


class SmallUNet(nn.Module):
    """U-Net with self- and cross-attention at strides 2 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attention = nn.ModuleList(Attention(4, None) for _ in range(2))
        self.cross_attention = nn.ModuleList(Attention(4, 6) for _ in range(2))

    def forward(self, latent: Tensor, text: Tensor) -> Tensor:
        for stride, self_attention, cross_attention in zip(
            (2, 4), self.self_attention, self.cross_attention
        ):
            small = nn.functional.avg_pool2d(latent, stride).flatten(2).transpose(1, 2)
            latent = latent + cross_attention(self_attention(small), text).mean()
        return latent


def test_recording_keeps_results():
    network, latent, text = (
        SmallUNet(),
        normal_tensor("latent", 1, 4, 8, 12),
        normal_tensor("text", 1, 5, 6),
    )
    expected = network(latent, text)
    with AttentionRecorder(network) as recorder:
        assert torch.equal(network(latent, text), expected)
    assert [tuple(attention.shape) for attention in recorder.cross_attention] == [
        (1, 24, 5),
        (1, 6, 5),
    ]
    assert [tuple(attention.shape) for attention in recorder.self_attention] == [
        (1, 24, 24),
        (1, 6, 6),
    ]
    torch.testing.assert_close(recorder.cross_attention[0].sum(-1), torch.ones(1, 24))
    network(latent, text)
    assert len(recorder.cross_attention) == 2, "recording has ended"


def test_network_without_attention_raises_an_error():
    with pytest.raises(TrainingFreeError, match="no attention modules that can be recorded"):
        AttentionRecorder(nn.Linear(2, 2))


def test_cross_attention_map_has_the_region_of_the_phrase():
    target = torch.zeros(16, 24, dtype=torch.bool)
    target[4:12, 8:20] = True
    maps = []
    for stride in (2, 4, 8):
        share = nn.functional.avg_pool2d(target[None].float(), stride).flatten()
        if stride == 8:
            share = 1 - share  # a layer of an unused stride
        maps.append(torch.stack([1 - share, share / 2, share / 2], 1).expand(3, -1, -1))
    output = cross_attention_map(maps, [1, 2], (16, 24))
    mask = output > output.max() / 2
    assert ((mask & target).sum() / (mask | target).sum()) > 0.95
    with pytest.raises(TrainingFreeError, match="no token in the prompt"):
        cross_attention_map(maps, [], (16, 24))
    with pytest.raises(
        TrainingFreeError, match="no cross-attention of the U-Net has a resolution of 1/3"
    ):
        cross_attention_map(maps, [1], (16, 24), (3,))


def test_self_attention_propagates_inside_a_region():
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[2:6, 2:6] = True
    similarity = (region.flatten()[:, None] == region.flatten()).float()
    seed = torch.zeros(8, 8)
    seed[3, 3] = 1.0
    output = propagate_by_self_attention(seed, [2 * similarity.expand(2, -1, -1)], 1)
    assert torch.allclose(output[region], torch.tensor(1 / 16)) and not output[~region].any()
    assert torch.equal(propagate_by_self_attention(seed, [similarity[None]], 0), seed)


def test_token_columns_of_a_phrase():
    assert token_columns([9, 4, 5, 6, 5, 6, 2], [5, 6]) == [2, 3]
    assert token_columns([9, 4], [5]) == []


@pytest.fixture(scope="module")
def diffusion():
    pytest.importorskip("diffusers", reason="the optional package diffusers is not installed")
    from hipie_training_free.modeling.stable_diffusion import load_diffusion

    return load_diffusion("random:tiny")


def test_attention_of_diffusers_is_recorded(diffusion):
    latent, hidden = normal_tensor("noisy", 1, 4, 16, 16), normal_tensor("words", 1, 77, 32)
    processors = {type(attention) for attention in diffusion.unet.attn_processors.values()}
    expected = diffusion.unet(latent, 100, hidden).sample
    with AttentionRecorder(diffusion.unet) as recorder:
        recorded = diffusion.unet(latent, 100, hidden).sample
    torch.testing.assert_close(recorded, expected, atol=1e-5, rtol=1e-5)
    assert {attention.shape[2] for attention in recorder.cross_attention} == {77}
    assert {attention.shape[1] for attention in recorder.self_attention} >= {256, 64}
    assert {type(attention) for attention in diffusion.unet.attn_processors.values()} == processors


def test_phrase_maps_of_a_pipeline(diffusion):
    image = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    output = diffusion.phrase_maps(image, ["dog", "fire hydrant"], 100, 1)
    assert output.shape == (2, 16, 16) and torch.isfinite(output).all()
    assert not torch.allclose(output[0], output[1])
    assert torch.equal(output, diffusion.phrase_maps(image, ["dog", "fire hydrant"], 100, 1))
    with pytest.raises(TrainingFreeError, match=r"step 1000 of the diffusion is outside 0..999"):
        diffusion.phrase_maps(image, ["dog"], 1000, 1)
    with pytest.raises(TrainingFreeError, match="is too long for a diffusion prompt"):
        diffusion.phrase_maps(image, ["dog " * 90], 100, 1)


def test_missing_diffusers_raises_an_error_with_the_package(monkeypatch):
    import sys

    from hipie_training_free.modeling.stable_diffusion import load_diffusion

    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(TrainingFreeError, match="pip install 'hipie"):
        load_diffusion("random:tiny")
