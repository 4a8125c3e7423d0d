"""Start of training from torchvision's ResNet-50 in Detectron2's format."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from detectron2.modeling import build_model
from torchvision.models import resnet50
from torchvision.models.feature_extraction import create_feature_extractor

from hipie import model_zoo
from hipie.checkpoint import Checkpointer

SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.HIPIE.HIDDEN_DIM", 64),
    *("MODEL.HIPIE.THINGS.ENCODER_LAYERS", 1, "MODEL.HIPIE.THINGS.DECODER_LAYERS", 1),
    *("MODEL.HIPIE.STUFF.ENCODER_LAYERS", 1, "MODEL.HIPIE.STUFF.DECODER_LAYERS", 1),
    *("MODEL.HIPIE.THINGS.DIM_FEEDFORWARD", 64, "MODEL.HIPIE.STUFF.DIM_FEEDFORWARD", 64),
    *("MODEL.HIPIE.THINGS.FUSION_EMBED_DIM", 64),
]


def zoo_name(name: str) -> str:
    """Torchvision's name of a tensor as `R-50.pkl` has it (tools/convert-torchvision-to-d2.py)."""
    name = re.sub(r"layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    return name if name.startswith("res") else f"stem.{name}"


def test_backbone_equals_torchvisions_network(tiny_text, tmp_path) -> None:
    torchvision_model = resnet50(weights=None).eval()
    for norm in (
        one for one in torchvision_model.modules() if isinstance(one, torch.nn.BatchNorm2d)
    ):
        for values in (norm.weight.data, norm.running_var):
            values.uniform_(0.5, 1.5)
        for values in (norm.bias.data, norm.running_mean):
            values.uniform_(-0.2, 0.2)
    arrays = {
        zoo_name(name): value.numpy() for name, value in torchvision_model.state_dict().items()
    }
    path = tmp_path / "R-50.pkl"
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=2))

    options = [*SMALL, "MODEL.HIPIE.TEXT.SOURCE", str(tiny_text)]
    model = build_model(model_zoo.get_config("universal/hipie_r50.yaml", options)).eval()
    checkpointer = Checkpointer(model)
    checkpointer.load(str(path))

    assert not checkpointer.report.mismatched
    assert not [name for name in checkpointer.report.missing if name.startswith("backbone.")]
    assert all(
        name.startswith("stem.fc.") or name.endswith("num_batches_tracked")
        for name in checkpointer.report.unexpected
    )
    nodes = {"layer2": "res3", "layer3": "res4", "layer4": "res5"}
    image = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected = create_feature_extractor(torchvision_model, nodes)(image)
        found = model.backbone(image)
    for level, feature in expected.items():
        assert torch.allclose(found[level], feature, rtol=1e-4, atol=1e-4), level


def test_pretraining_configuration_names_that_file() -> None:
    cfg = model_zoo.get_config("universal/hipie_r50_pretrain.yaml")
    assert cfg.MODEL.WEIGHTS == "hipie://r50"
    assert model_zoo.find_model("r50").source.url.endswith("torchvision/R-50.pkl")
    assert not cfg.MODEL.RESNETS.STRIDE_IN_1X1
    assert pytest.approx([123.675, 116.28, 103.53]) == cfg.MODEL.PIXEL_MEAN
