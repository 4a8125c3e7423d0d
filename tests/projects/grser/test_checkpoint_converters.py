"""Conversion of LAVT's and Swin's published checkpoints, and of earlier parameter names."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg

import grser
from grser.checkpoint_converters import OFFICIAL_LAVT, RELEASED_SWIN
from grser.modeling.lavt import LAVT, LanguageAwareEncoder
from grser.modeling.swin import SwinBackbone
from hipie import add_hipie_config
from hipie.checkpoint import CheckpointError, load_state
from hipie.checkpoint.base import CheckpointableModel
from hipie.checkpoint.converters.conversion import CheckpointConverter, convert_state
from hipie.config.loading import merge
from tests.projects.grser.published import is_not_a_weight, official_shapes

CONVERTERS = (OFFICIAL_LAVT, RELEASED_SWIN)

CONFIGS = Path(__file__).parents[3] / "projects/GRSer/configs"
HEADS = ("triphasic_head.", "rejection_head.")


def configured(name: str):
    cfg = get_cfg()
    add_hipie_config(cfg)
    grser.add_grser_config(cfg)
    merge(cfg, CONFIGS / name)
    return cfg


def build_on_meta_device(name: str) -> grser.GRSer:
    """Build the model of a configuration on the meta device."""
    with torch.device("meta"):
        return grser.GRSer(**grser.GRSer.from_config(configured(name)))


@pytest.mark.parametrize("name", ["lavt_swin_b.yaml", "grser_swin_b.yaml"])
def test_every_published_tensor_is_converted(name):
    shapes = official_shapes()
    conversion = convert_state(
        {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, CONVERTERS
    )
    expected = {k: tuple(v.shape) for k, v in build_on_meta_device(name).state_dict().items()}
    text = {k for k in expected if k.startswith("text_encoder.")}
    if not any(key.startswith("text_encoder.") for key in shapes):
        expected = {k: v for k, v in expected.items() if k not in text}
    assert conversion.layout == "official LAVT"
    loaded = {k: tuple(v.shape) for k, v in conversion.state.items()}
    assert loaded == {k: v for k, v in expected.items() if not k.startswith(HEADS)}
    assert all("relative_position_index" in k or "pooler" in k for k in conversion.dropped)


def test_swin_b_configurations_need_no_internet(monkeypatch):
    """The complete model is built without opening a connection."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
    model = build_on_meta_device("grser_swin_b.yaml")
    published = {k: v for k, v in official_shapes().items() if not is_not_a_weight(k)}
    num_weights = sum(prod(shape) for name, shape in published.items() if "running_" not in name)
    assert sum(p.numel() for p in model.lavt.parameters()) == num_weights
    assert model.text_encoder.width == 768
    assert sum(p.numel() for p in model.text_encoder.parameters()) == 108_891_648


def test_tensors_are_assigned_to_the_right_parameters(model):
    """Tensors are identified by their values."""
    official_names = (
        "backbone.layers.1.blocks.0.attn.proj.bias",
        "backbone.layers.2.fusion.image_lang_att.W.0.bias",
        "backbone.layers.0.fusion.vis_project.0.bias",
        "backbone.layers.3.res_gate.2.weight",
        "backbone.norm2.weight",
        "backbone.layers.0.downsample.norm.bias",
        "classifier.bn2_3.bias",
        "classifier.conv1_2.weight",
    )
    renamed = convert_state(
        {name: torch.tensor(i + 1.0) for i, name in enumerate(official_names)}, CONVERTERS
    ).state
    encoder, decoder = model.lavt.encoder, model.lavt.decoder
    parts = {
        1.0: encoder.backbone.stages[1][0].attn.proj.bias,
        2.0: encoder.fusions[2].out.bias,
        3.0: encoder.fusions[0].visual.bias,
        4.0: encoder.gates[3][2].weight,
        5.0: encoder.norms[2].weight,
        6.0: encoder.backbone.merges[0].norm.bias,
        7.0: decoder.levels[1][4].bias,
        8.0: decoder.levels[2][0].weight,
    }
    names = dict(model.named_parameters())
    assert len(renamed) == len(parts)
    for name, value in renamed.items():
        assert names[name] is parts[float(value)], name


class SwinHolder(CheckpointableModel):
    """Model with GRSer's converters and a trunk alone."""

    @classmethod
    def checkpoint_converters(cls) -> tuple[CheckpointConverter, ...]:
        return CONVERTERS


def test_released_swin_initialises_the_backbone():
    lavt = LAVT(LanguageAwareEncoder(SwinBackbone("swin_t"), 8), 16)
    holder = SwinHolder()
    holder.lavt = lavt
    expected = "lavt.encoder.backbone."
    names = {"embed.": "patch_embed.", "stages.": "layers.", "merges.": "layers."}
    state = {"norm.weight": torch.ones(768), "head.weight": torch.ones(5, 768)}
    for key, value in lavt.encoder.backbone.state_dict().items():
        start = next(prefix for prefix in names if key.startswith(prefix))
        parts = key.removeprefix(start).split(".")
        if start == "stages.":
            parts.insert(1, "blocks")
        elif start == "merges.":
            parts.insert(1, "downsample")
        state[names[start] + ".".join(parts)] = torch.randn_like(value)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    report = load_state(holder, state, "swin_tiny.pth")
    assert report.unexpected == () and report.mismatched == ()
    assert not any(
        name.startswith(expected) and not is_not_a_weight(name) for name in report.missing
    )
    torch.testing.assert_close(
        lavt.encoder.backbone.merges[2].reduction.weight,
        state["layers.2.downsample.reduction.weight"],
    )


def test_checkpoint_of_another_variant_is_rejected(model):
    state = {k: torch.empty(v) for k, v in official_shapes().items() if "blocks.0" in k}
    state["backbone.layers.0.fusion.vis_project.0.bias"] = torch.empty(128)
    with pytest.raises(CheckpointError, match="another model.*GRSer"):
        load_state(model, state, "lavt_one.pth")


def test_checkpoints_with_earlier_names_are_converted(model):
    earlier_names = {
        "triphasic_head.text_projection.": "head.words.",
        "triphasic_head.output_projection.": "head.narrow.",
        "rejection_head.visual_projection.": "comparison.picture.",
        "rejection_head.text_projection.": "comparison.sentence.",
    }
    state = model.state_dict()
    earlier = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in earlier_names if name.startswith(prefix)), None)
        if prefix is not None:
            name = earlier_names[prefix] + name.removeprefix(prefix)
        earlier[name] = value
    assert len(set(earlier) - set(state)) == 8
    conversion = convert_state(earlier, model.checkpoint_converters())
    assert conversion.layout == "GRSer before renaming" and conversion.complete
    assert list(conversion.state) == list(state)
    assert all(conversion.state[name] is earlier_value for name, earlier_value in state.items())
