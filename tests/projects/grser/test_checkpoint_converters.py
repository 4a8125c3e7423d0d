"""LAVT's published names and shapes all have their place, and Swin's released ones too."""

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
from tests.projects.grser.published import is_counted, official_shapes

CONVERTERS = (OFFICIAL_LAVT, RELEASED_SWIN)

CONFIGS = Path(__file__).parents[3] / "projects/GRSer/configs"
HEADS = ("triphasic_head.", "rejection_head.")


def configured(name: str):
    cfg = get_cfg()
    add_hipie_config(cfg)
    grser.add_grser_config(cfg)
    merge(cfg, CONFIGS / name)
    return cfg


def without_memory(name: str) -> grser.GRSer:
    """A configuration's model, without any numbers."""
    with torch.device("meta"):
        return grser.GRSer(**grser.GRSer.from_config(configured(name)))


@pytest.mark.parametrize("name", ["lavt_swin_b.yaml", "grser_swin_b.yaml"])
def test_every_published_tensor_has_a_place(name):
    shapes = official_shapes()
    found = convert_state(
        {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, CONVERTERS
    )
    own = {k: tuple(v.shape) for k, v in without_memory(name).state_dict().items()}
    text = {k for k in own if k.startswith("text_encoder.")}
    if not any(key.startswith("text_encoder.") for key in shapes):
        own = {k: v for k, v in own.items() if k not in text}
    assert found.layout == "official LAVT"
    loaded = {k: tuple(v.shape) for k, v in found.state.items()}
    assert loaded == {k: v for k, v in own.items() if not k.startswith(HEADS)}
    assert all("relative_position_index" in k or "pooler" in k for k in found.dropped)


def test_configurations_of_swin_b_need_no_network(monkeypatch):
    """Anything that asks for an address fails; the model is whole all the same."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    model = without_memory("grser_swin_b.yaml")
    published = {k: v for k, v in official_shapes().items() if not is_counted(k)}
    wanted = sum(prod(shape) for name, shape in published.items() if "running_" not in name)
    assert sum(p.numel() for p in model.lavt.parameters()) == wanted
    assert model.text_encoder.width == 768
    assert sum(p.numel() for p in model.text_encoder.parameters()) == 108_891_648


def test_tensors_go_where_they_are_meant(model):
    """By content: what the file says of one part is found in that part, and nowhere else."""
    theirs = (
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
        {name: torch.tensor(i + 1.0) for i, name in enumerate(theirs)}, CONVERTERS
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


def test_released_swin_fills_the_trunk():
    lavt = LAVT(LanguageAwareEncoder(SwinBackbone("swin_t"), 8), 16)
    holder = SwinHolder()
    holder.lavt = lavt
    own = "lavt.encoder.backbone."
    names = {"embed.": "patch_embed.", "stages.": "layers.", "merges.": "layers."}
    state = {"norm.weight": torch.ones(768), "head.weight": torch.ones(5, 768)}
    for key, value in lavt.encoder.backbone.state_dict().items():
        start = next(one for one in names if key.startswith(one))
        parts = key.removeprefix(start).split(".")
        if start == "stages.":
            parts.insert(1, "blocks")
        elif start == "merges.":
            parts.insert(1, "downsample")
        state[names[start] + ".".join(parts)] = torch.randn_like(value)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    report = load_state(holder, state, "swin_tiny.pth")
    assert report.unexpected == () and report.mismatched == ()
    assert not any(name.startswith(own) and not is_counted(name) for name in report.missing)
    torch.testing.assert_close(
        lavt.encoder.backbone.merges[2].reduction.weight,
        state["layers.2.downsample.reduction.weight"],
    )


def test_another_variant_is_refused(model):
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
