"""Frozen batch norms: outputs in evaluation mode are kept, and norms are not trained."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, StdConv2d
from torch import nn

from hipie.modeling.backbone.frozen_batch_norm import freeze_norms

SIZE = (3, 32, 64)


class OddOrder(nn.Module):
    """Registers its norms in another order than it runs them; one norm has no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm_of_second = BatchNormAct2d(4)
        self.second = nn.Conv2d(4, 4, 1)
        self.norm_of_first = nn.BatchNorm2d(4)
        self.alone = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm_of_first(self.first(x)).sigmoid()
        return self.alone(x + self.norm_of_second(self.second(x)))


@pytest.mark.parametrize(
    "make",
    [
        OddOrder,
        lambda: timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 4)),
        lambda: timm.create_model("resnet18", features_only=True, out_indices=(2, 4)),
        lambda: timm.create_model("densenet121", features_only=True, out_indices=(1,)),
    ],
)
def test_output_is_kept_in_training_mode_too(make, randomize_norms) -> None:
    net = randomize_norms(make()).eval()
    pixels = torch.randn(2, *SIZE)
    with torch.no_grad():
        expected = net(pixels)
        freeze_norms(net, SIZE)
        output = net.train()(pixels)
    for a, b in zip(output, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def test_norms_are_fused_by_data_flow_not_by_order(randomize_norms) -> None:
    net = randomize_norms(OddOrder())
    kernel, norm = net.first.weight.clone(), net.norm_of_first
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    freeze_norms(net, SIZE)
    torch.testing.assert_close(net.first.weight, kernel * scale[:, None, None, None])
    assert isinstance(net.norm_of_first, nn.Identity)
    assert not list(net.alone.parameters())


def test_fused_convolutions_stay_trainable(randomize_norms) -> None:
    net = randomize_norms(OddOrder())
    freeze_norms(net, SIZE)
    trainable = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    assert trainable == {
        "first.weight": True,
        "first.bias": False,
        "second.weight": True,
        "second.bias": True,
    }


def test_standardized_weights_are_not_fused(randomize_norms) -> None:
    net = randomize_norms(nn.Sequential(StdConv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    pixels = torch.randn(1, *SIZE)
    with torch.no_grad():
        expected = net(pixels)
        freeze_norms(net, SIZE)
        torch.testing.assert_close(net.train()(pixels), expected)


def test_network_without_batch_norms_is_not_changed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    freeze_norms(net, (1, 1, 1))
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
